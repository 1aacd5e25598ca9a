#!/bin/sh
# Write .env (or the file named as argument) with a random password for everything.
# An existing file is left alone: its passwords are in the databases already.
set -eu

case ${1:-} in
-h | --help)
    echo "usage: $0 [FILE]    writes FILE (.env) with a random password for everything"
    exit 0
    ;;
-*)
    echo "$0: no option $1; usage: $0 [FILE]" >&2
    exit 2
    ;;
esac
target=${1:-.env}
example=$(dirname "$0")/env.example

password() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

if [ -e "$target" ]; then
    echo "$target exists; delete it first if nothing uses its passwords" >&2
    exit 1
fi
umask 077
# Finished under another name, so that an interrupted run leaves no half of a file behind.
while IFS= read -r line; do
    case $line in
    \#*) echo "$line" ;;
    *=) echo "$line$(password)" ;;
    *) echo "$line" ;;
    esac
done <"$example" >"$target.new"
mv "$target.new" "$target"
echo "wrote $target"
