#!/usr/bin/env luajit
-- Chat templates of the fixture models against transformers.
local tap = dofile "t/tap.lua"
local json = require "llm.json"
local template = require "llm.template"

local models = json.decode(tap.read "t/fixtures/chat/models.json",
                           { floats = true })

for _, model in ipairs(models) do
    local run, err = template.compile(model.template)
    tap.ok(run, model.models[1] .. " compiles " .. (err or ""))
    for i, case in ipairs(model.cases) do
        local vars = { tools = json.null, documents = json.null }
        for _, source in ipairs { model.vars, case } do
            for k, v in pairs(source) do
                vars[k] = v
            end
        end
        local name = model.models[1] .. " case " .. i
        local text, failure = run(vars)
        if case.error then
            local want = "syntax error: " .. case.error .. " (in <string>:1)"
            tap.is(failure, want, name)
        else
            tap.is(text or failure, case.rendered, name)
        end
    end
end

tap.done_testing()
