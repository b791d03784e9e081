#!/bin/sh
# embed.sh - writes the bundled Lua modules as C byte arrays.
#
# Usage: sh lua/embed.sh OUT        (from config.make; OUT is a header that
#                                    ngx_http_llm_lua_bundle.c includes)
#
# Only sh, od and sed: a build needs no Lua.  The file appears at once or not
# at all, so that an interrupted build is repeated.
set -eu

out=$1
dir=$(dirname "$0")/llm
tmp=$out.$$
trap 'rm -f "$tmp"' EXIT

{
    echo "/* Written by lua/embed.sh; do not edit. */"
    for file in "$dir"/*.lua; do
        name=$(basename "$file" .lua)
        echo "static const u_char ngx_http_llm_lua_source_$name[] = {"
        od -An -v -tx1 "$file" | sed 's/ *\([0-9a-f][0-9a-f]\)/0x\1,/g'
        echo "};"
    done
    echo "static const ngx_http_llm_lua_source_t"
    echo "    ngx_http_llm_lua_sources[] = {"
    for file in "$dir"/*.lua; do
        name=$(basename "$file" .lua)
        echo "    { \"llm.$name\", ngx_http_llm_lua_source_$name,"
        echo "      sizeof(ngx_http_llm_lua_source_$name) },"
    done
    echo "    { NULL, NULL, 0 }"
    echo "};"
} > "$tmp"
mv "$tmp" "$out"
