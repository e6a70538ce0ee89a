dnl SPDX-License-Identifier: BSD-3-Clause
dnl
dnl Flags of the compiler and the modes that moxi is built in.

dnl MOXI_REQUIRE_FLAGS(WHAT, FLAGS)
dnl Adds FLAGS to MOXI_CFLAGS when a program compiles and links with them, ends configure when not.
AC_DEFUN([MOXI_REQUIRE_FLAGS], [
    AC_MSG_CHECKING([whether $CC does $1 ($2)])
    moxi_saved_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $2"
    AC_LINK_IFELSE([AC_LANG_PROGRAM()], [moxi_works=yes], [moxi_works=no])
    CFLAGS=$moxi_saved_CFLAGS
    AC_MSG_RESULT([$moxi_works])
    AS_IF([test $moxi_works = no], [AC_MSG_ERROR([$CC cannot do $1 here; config.log says why])])
    MOXI_CFLAGS="$MOXI_CFLAGS $2"
])

dnl MOXI_MODE(NAME, HELP)
dnl --enable-NAME, off unless asked for; the answer is in moxi_NAME.
AC_DEFUN([MOXI_MODE], [
    AC_ARG_ENABLE([$1], [AS_HELP_STRING([--enable-$1], [$2])], [moxi_$1=$enableval], [moxi_$1=no])
    AS_CASE([$moxi_$1], [yes | no], [], [AC_MSG_ERROR([--enable-$1 takes yes or no, not $moxi_$1])])
])

dnl MOXI_MODES
dnl The options --enable-debug, -sanitizers, -tsan and -werror. Comes before AC_PROG_CC, because that one sets CFLAGS
dnl where the user set none.
AC_DEFUN([MOXI_MODES], [
    MOXI_MODE([debug], [compile without optimization, with all debug information])
    MOXI_MODE([sanitizers], [find memory errors, leaks and undefined behaviour while running (ASan, UBSan)])
    MOXI_MODE([tsan], [find data races while running (TSan); excludes --enable-sanitizers])
    MOXI_MODE([werror], [let a compiler's warning be an error])

    AS_IF([test "$moxi_sanitizers$moxi_tsan" = yesyes],
          [AC_MSG_ERROR([--enable-sanitizers and --enable-tsan exclude each other: build twice])])
    AS_IF([test -z "${CFLAGS+set}"],
          [AS_CASE([$moxi_debug,$moxi_sanitizers$moxi_tsan],
                   [yes,*], [CFLAGS="-O0 -g3"],
                   [no,*yes*], [CFLAGS="-O1 -g"],
                   [CFLAGS="-O2 -g"])])
])

dnl MOXI_COMPILER_FLAGS
dnl MOXI_CFLAGS, for compiling and for linking: the language, warnings, and what the modes ask for.
AC_DEFUN([MOXI_COMPILER_FLAGS], [
    MOXI_CFLAGS=
    MOXI_REQUIRE_FLAGS([C11 with GNU extensions], [-std=gnu11])
    MOXI_REQUIRE_FLAGS([warnings], [-Wall -Wextra -Wstrict-prototypes -Wmissing-prototypes])
    MOXI_REQUIRE_FLAGS([POSIX threads], [-pthread])
    AS_IF([test $moxi_sanitizers = yes],
          [MOXI_REQUIRE_FLAGS([ASan and UBSan],
              [-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer])])
    AS_IF([test $moxi_tsan = yes],
          [MOXI_REQUIRE_FLAGS([TSan], [-fsanitize=thread -fno-omit-frame-pointer])])
    AS_IF([test $moxi_werror = yes], [MOXI_REQUIRE_FLAGS([errors for warnings], [-Werror])])
    AC_SUBST([MOXI_CFLAGS])
])
