#!/usr/bin/env luajit
-- Jinja constructs against the results of jinja2 (t/gen/chat.py).
local tap = dofile "t/tap.lua"
local json = require "llm.json"
local template = require "llm.template"

local data = json.decode(tap.read "t/fixtures/chat/constructs.json",
                         { floats = true })

-- strftime_now is local time: the moment that reads 2024-07-04 15:06:09 here
local now = os.time { year = 2024, month = 7, day = 4, hour = 15, min = 6,
                      sec = 9 }

for _, case in ipairs(data.cases) do
    local run, err = template.compile(case.template)
    local text
    if run then
        text, err = run(case.vars, { now = now })
    end
    if case.rendered then
        if not text then
            tap.ok(false, case.name)
            tap.note("failed: " .. err)
        else
            tap.is(text, case.rendered, case.name)
        end
    elseif text then
        tap.ok(false, case.name)
        tap.note("rendered: " .. text)
    elseif case.error == "unknown" then
        tap.ok(err:find("^unknown %a+: ") ~= nil, case.name .. ": " .. err)
    else
        local want_line = " (in <string>:" .. case.line .. ")"
        tap.ok(err:sub(1, #case.error) == case.error
               and err:sub(-#want_line) == want_line,
               case.name .. ": " .. err)
        if case.error:find(": ", 1, true) then
            tap.is(err, case.error .. want_line, case.name .. " exactly")
        end
        if err:sub(-#want_line) ~= want_line or err:sub(1, #case.error) ~= case.error then
            tap.note("want " .. case.error .. want_line)
        end
    end
end

tap.done_testing()
