#!/bin/sh
# embed.sh - writes the files that the module serves as C byte arrays.
#
# Usage: sh web/embed.sh OUT        (from config.make; OUT is a header that
#                                    ngx_http_llm_web.c includes)
#
# The file appears at once or not at all, so that an interrupted build is
# repeated.
set -eu

out=$1
dir=$(dirname "$0")
tmp=$out.$$
trap 'rm -f "$tmp"' EXIT

{
    echo "/* Written by web/embed.sh; do not edit. */"
    for file in openapi.json docs.html; do
        echo "static const u_char ngx_http_llm_web_$(echo $file | tr . _)[] = {"
        od -An -v -tx1 "$dir/$file" | sed 's/ *\([0-9a-f][0-9a-f]\)/0x\1,/g'
        echo "};"
    done
} > "$tmp"
mv "$tmp" "$out"
