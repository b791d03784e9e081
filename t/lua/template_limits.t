#!/usr/bin/env luajit
-- Hostile templates: each ends with an error, soon, and changes nothing.
local tap = dofile "t/tap.lua"
local json = require "llm.json"
local template = require "llm.template"

local MAX_SECONDS = 10          -- wide: only an endless run exceeds it

local function try(source, vars, options)
    local run, err = template.compile(source)
    if not run then
        return nil, err
    end
    return run(vars or {}, options)
end

local HOSTILE = {
    { "nested loops", "{% for a in range(100000) %}{% for b in range(100000)"
      .. " %}{% for c in range(100000) %}{% endfor %}{% endfor %}"
      .. "{% endfor %}", "fuel" },
    { "string doubling", "{% set ns = namespace(s='x') %}{% for i in "
      .. "range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "string of" },
    { "string times", "{{ 'x' * 1000000000000 }}", "string of" },
    { "list doubling", "{% set ns = namespace(l=[1]) %}{% for i in range(60)"
      .. " %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "fuel" },
    { "list times", "{{ [1] * 1000000000 }}", "fuel" },
    { "range", "{{ range(10000000)|length }}", "Range too big" },
    { "macro recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "nested deeper" },
    { "loop recursion", "{% for x in [1] recursive %}{{ loop([1]) }}"
      .. "{% endfor %}", "nested deeper" },
    { "shared lists", "{% set ns = namespace(l=[1]) %}{% for i in range(60)"
      .. " %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}", "fuel" },
    { "deep list", "{% set ns = namespace(l=[1]) %}{% for i in range(90000)"
      .. " %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", "" },
    { "deep tojson", "{% set ns = namespace(l=[1]) %}{% for i in range(9000)"
      .. " %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
      "deeper" },
    { "replace grows", "{% set s = 'a' * 10000 %}"
      .. "{{ s.replace('a', s) }}", "string of" },
    { "replace empty", "{% set s = 'a' * 10000 %}"
      .. "{{ s.replace('', s) }}", "string of" },
    { "join grows", "{{ (['a'] * 100000)|join('b' * 100000) }}", "string of" },
    { "pad", "{{ 'a'.ljust(100000000000) }}", "string of" },
    { "center", "{{ 'a'|center(100000000000) }}", "string of" },
    { "percent width", "{{ '%1000000000d' % 1 }}", "width" },
    { "percent precision", "{{ '%.1000000f' % 1 }}", "precision" },
    { "format width", "{{ '{:1000000000}'.format(1) }}", "width" },
    { "indent width", "{{ 'a\\nb'|indent(100000000000) }}", "string of" },
    { "tojson indent", "{{ [1]|tojson(indent=100000000000) }}", "string of" },
    { "zfill", "{{ '1'.zfill(100000000000) }}", "string of" },
    { "power", "{{ 10 ** 300 }}", "2**53" },
    { "long search", "{% set s = 'a' * 1000000 %}{% set t = 'a' * 500000 ~ "
      .. "'b' %}{% for i in range(1000) %}{{ t in s }}{% endfor %}", "fuel" },
    { "slow count", "{% set s = 'ab' * 1000000 %}{% for i in range(1000) %}"
      .. "{% set x = s.count('b') %}{% endfor %}", "fuel" },
    { "sort", "{% for i in range(1000) %}{% set x = range(100000)|sort %}"
      .. "{% endfor %}", "fuel" },
    { "batch", "{{ [1]|batch(1000000000, 'x')|list }}", "fuel" },
    { "slice", "{{ [1]|slice(1000000000, 'x')|list }}", "fuel" },
    { "output", "{% for i in range(100000) %}" .. ("x"):rep(1000)
      .. "{% endfor %}", "string of" },
    { "nested brackets", "{{ " .. ("("):rep(5000) .. "1"
      .. (")"):rep(5000) .. " }}", "nested" },
    { "nested lists", "{{ " .. ("["):rep(5000) .. "1" .. ("]"):rep(5000)
      .. " }}", "nested" },
    { "nested ifs", ("{% if a %}"):rep(5000), "nested" },
    { "nested nots", "{{ " .. ("not "):rep(50000) .. "a }}", "nested" },
    { "minus signs", "{{ " .. ("- "):rep(50000) .. "1 }}", "nested" },
    { "long sum", "{{ " .. ("1 + "):rep(50000) .. "1 }}", "longer" },
    { "long postfix", "{{ a" .. ("[0]"):rep(50000) .. " }}", "longer" },
    { "long filters", "{{ a" .. ("|list"):rep(50000) .. " }}", "longer" },
    { "else ifs", "{{ " .. ("1 if a else "):rep(5000) .. "2 }}", "nested" },
    { "huge source", ("x"):rep(1000000), "bytes" },
    { "many tokens", "{{ [" .. ("1,"):rep(120000) .. "] }}", "tokens" },
    { "metatable", "{{ ''.__class__.__mro__ }}", "undefined" },
    { "lua names", "{{ string.rep('x', 9) }}", "undefined" },
    { "lua globals", "{{ _G.os.execute('true') }}", "undefined" },
    { "upvalue of a macro", "{% macro f() %}{% endmacro %}{{ f.call() }}",
      "no attribute" },
    { "set global", "{% set range = 1 %}{{ range(1) }}", "not callable" },
}

for _, case in ipairs(HOSTILE) do
    local name, source, want = case[1], case[2], case[3]
    local start = os.clock()
    local text, err = try(source)
    local seconds = os.clock() - start
    if not tap.ok(text == nil and err:find(want, 1, true), name) then
        tap.note(text and "rendered " .. #text or err)
    end
    tap.ok(seconds < MAX_SECONDS, name .. " ends")
    if seconds > 1 then
        tap.note(string.format("took %.1f s", seconds))
    end
end

-- one rendering leaves nothing behind for the next
tap.is(try("{{ range(2)|list }}"), "[0, 1]", "globals are as before")
tap.is(try("{% set x = 1 %}{{ x }}"), "1", "set")
tap.is(try("{{ x is defined }}"), "False", "set does not outlive a rendering")
local run = template.compile "{{ l|length }}{% set l = l + [1] %}{{ l }}"
local vars = json.decode '{"l": []}'
tap.is(run(vars) .. run(vars), "0[1]0[1]", "variables are not changed")

-- limits can be set
local _, err = try("{% for i in range(50) %}x{% endfor %}", {}, { steps = 60 })
tap.ok(err and err:find("fuel", 1, true), "few steps")
_, err = try("{{ 'x' * 101 }}", {}, { output = 100 })
tap.ok(err and err:find("100 bytes", 1, true), "small output")
tap.is(#try("{{ 'x' * 100 }}", {}, { output = 100 }), 100, "just fits")

-- lookup of every byte and of random bytes never crashes the compiler
math.randomseed(3)
local pieces = { "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "if", "for",
    "in", "set", "x", "'", '"', "\\", "(", ")", "[", "]", ".", "|", "1",
    "end", "endif", "endfor", "else", "raw", "endraw", " ", "\n", "é", "\255",
    "\0", ",", ":", "=", "macro", "is", "not", "~", "**" }
local crashed
for _ = 1, 20000 do
    local parts = {}
    for i = 1, math.random(12) do
        parts[i] = pieces[math.random(#pieces)]
    end
    local source = table.concat(parts)
    local text, failure = try(source)
    if not text and (not failure:find("%(in <string>:%d+%)$")
                     or failure:find("%.lua:")) then
        crashed = crashed or source .. " -> " .. failure
    end
end
tap.is(crashed, nil, "random templates fail cleanly")

tap.done_testing()
