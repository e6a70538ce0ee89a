dnl SPDX-License-Identifier: BSD-3-Clause
dnl
dnl Programs that only tests and developers need. What is absent is listed at the end of configure.

dnl MOXI_OPTIONAL(WHAT, DEBIAN PACKAGE, TEST, PURPOSE)
dnl Runs the shell command TEST; where it fails, adds a line to moxi_absent.
AC_DEFUN([MOXI_OPTIONAL], [
    AC_MSG_CHECKING([for $1])
    AS_IF([$3 >/dev/null 2>&1], [AC_MSG_RESULT([yes])],
          [AC_MSG_RESULT([no])
           AS_VAR_APPEND([moxi_absent], ["
    $1 ($2): $4"])])
])

dnl MOXI_FUZZING
dnl Sets CLANG to a clang that links libFuzzer, else to nothing, and the automake condition FUZZING.
AC_DEFUN([MOXI_FUZZING], [
    AC_ARG_VAR([CLANG], [a clang with libFuzzer, for the fuzz targets])
    AC_ARG_ENABLE([fuzzing],
                  [AS_HELP_STRING([--disable-fuzzing], [leave the fuzz targets out of make check])],
                  [], [enable_fuzzing=auto])
    AS_IF([test "$enable_fuzzing" != no], [
        AC_PATH_PROG([CLANG], [clang])
        AC_MSG_CHECKING([whether clang has libFuzzer])
        echo '#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *p, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *p, size_t n) { return n && *p ? 0 : 0; }' >conftest.c
        AS_IF([test -n "$CLANG" && "$CLANG" -fsanitize=fuzzer,address,undefined -o conftest conftest.c >&AS_MESSAGE_LOG_FD 2>&1],
              [moxi_fuzzing=yes], [moxi_fuzzing=no])
        rm -f conftest conftest.c
        AC_MSG_RESULT([$moxi_fuzzing])
        AS_IF([test $moxi_fuzzing = no],
              [AS_IF([test "$enable_fuzzing" = yes],
                     [AC_MSG_ERROR([--enable-fuzzing: no clang with libFuzzer (Debian packages clang and libclang-rt-14-dev)])])
               AS_VAR_APPEND([moxi_absent], ["
    clang with libFuzzer (clang, libclang-rt-14-dev): make check does not fuzz"])])
    ], [moxi_fuzzing=no])
    AM_CONDITIONAL([FUZZING], [test $moxi_fuzzing = yes])
])
