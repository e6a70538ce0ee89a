dnl SPDX-License-Identifier: BSD-3-Clause
dnl
dnl Libraries that moxi cannot do without.

dnl MOXI_LIBRARY(VAR, NAME, PKG-CONFIG MODULE, LIBRARY, HEADER, FUNCTION, DEBIAN PACKAGE)
dnl Finds a library and sets VAR_CFLAGS, VAR_LIBS and VAR_FROM (where it was found, for the summary). It is looked for in
dnl DIR of --with-NAME=DIR, else where pkg-config says, else where the compiler looks by itself. Wherever it comes from,
dnl its header must compile and FUNCTION must link, or configure ends and says which package has it.
AC_DEFUN([MOXI_LIBRARY], [
    AC_ARG_WITH([$2], [AS_HELP_STRING([--with-$2=DIR], [use $2 in DIR/include and DIR/lib])], [], [with_$2=])
    AS_CASE([$with_$2],
        [no], [AC_MSG_ERROR([moxi cannot be built without $2])],
        [yes | ''], [MOXI_LIBRARY_BY_ITSELF([$1], [$3], [$4])],
        [MOXI_LIBRARY_IN_DIR([$1], [$2], [$4], [$5])])

    AC_MSG_CHECKING([for $2 ($$1_FROM)])
    moxi_saved_CPPFLAGS=$CPPFLAGS
    moxi_saved_LIBS=$LIBS
    CPPFLAGS="$CPPFLAGS $$1_CFLAGS"
    LIBS="$$1_LIBS $LIBS"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <stddef.h>
#include <$5>]], [[void *volatile p = (void *)$6; return p == NULL;]])], [moxi_works=yes], [moxi_works=no])
    CPPFLAGS=$moxi_saved_CPPFLAGS
    LIBS=$moxi_saved_LIBS
    AC_MSG_RESULT([$moxi_works])
    AS_IF([test $moxi_works = no],
          [AC_MSG_ERROR([$2 is missing or does not work: <$5> with $6() of -l$4. The Debian package is $7 (apt-get install $7); where it is elsewhere, say --with-$2=DIR. config.log has the compiler's words])])
    AC_SUBST([$1_CFLAGS])
    AC_SUBST([$1_LIBS])
])

dnl MOXI_LIBRARY_BY_ITSELF(VAR, PKG-CONFIG MODULE, LIBRARY)
AC_DEFUN([MOXI_LIBRARY_BY_ITSELF], [
    AC_REQUIRE([MOXI_PKG_CONFIG])
    AS_IF([test "$PKG_CONFIG" != no && $PKG_CONFIG --exists $2 2>/dev/null],
          [$1_CFLAGS=`$PKG_CONFIG --cflags $2`
           $1_LIBS=`$PKG_CONFIG --libs $2`
           $1_FROM="`$PKG_CONFIG --modversion $2` of pkg-config"],
          [$1_CFLAGS=
           $1_LIBS="-l$3"
           $1_FROM="the compiler's directories"])
])

dnl MOXI_LIBRARY_IN_DIR(VAR, NAME, LIBRARY, HEADER)
AC_DEFUN([MOXI_LIBRARY_IN_DIR], [
    AS_IF([test ! -f "$with_$2/include/$4"], [AC_MSG_ERROR([--with-$2=$with_$2: there is no $with_$2/include/$4])])
    moxi_lib=
    for moxi_dir in "$with_$2/lib" "$with_$2/lib64" "$with_$2/lib/"*-linux-gnu*; do
        AS_IF([test -z "$moxi_lib" && { test -e "$moxi_dir/lib$3.so" || test -e "$moxi_dir/lib$3.a"; }],
              [moxi_lib=$moxi_dir])
    done
    AS_IF([test -z "$moxi_lib"], [AC_MSG_ERROR([--with-$2=$with_$2: there is no lib$3 in $with_$2/lib])])
    $1_CFLAGS="-I$with_$2/include"
    $1_LIBS="-L$moxi_lib -Wl,-rpath,$moxi_lib -l$3"
    $1_FROM="$with_$2"
])

dnl MOXI_PKG_CONFIG
dnl pkg-config is a help, not a need, so pkg.m4, which comes with it, is not used.
AC_DEFUN([MOXI_PKG_CONFIG], [
    AC_CHECK_TOOL([PKG_CONFIG], [pkg-config], [no])
])
