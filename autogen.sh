#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# Makes ./configure and Makefile.in from configure.ac and Makefile.am. Needs autoconf and automake, and m4 and perl that
# they bring. To be run once in a fresh clone; make itself runs them again when configure.ac or Makefile.am change.
set -eu
cd "$(dirname "$0")"

for tool in autoconf automake; do
    command -v $tool >/dev/null || {
        echo "autogen.sh: $tool is missing (Debian package $tool)" >&2
        exit 1
    }
done

mkdir -p build-aux
exec autoreconf --install --warnings=all,error
