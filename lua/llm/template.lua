--- llm.template: chat templates (Jinja), compiled to sandboxed Lua.
--
--   local t, err = template.compile(source)
--   local text, err = t(vars, {now = os.time(), steps = ..., output = ...})
--
-- vars is an object of canonical JSON values (llm.json).  The dialect is
-- Jinja 3.1 as Hugging Face transformers runs it: trim_blocks,
-- lstrip_blocks, loop controls, an immutable sandbox, tojson without
-- escapes, raise_exception, strftime_now, {% generation %}.
--
-- Templates come with models and are untrusted.  They reach only functions
-- of the llm.template_* modules, none of which takes a Lua pattern from a
-- template, and every rendering has limits on steps, output and depth
-- (template_limits.lua).
--
-- Errors are strings "kind: detail (in <string>:line)".

local limits = require "llm.template_limits"
local parser = require "llm.template_parser"
local compile = require "llm.template_compile"

local template = {}

local MAX_SOURCE = 512 * 1024

local function message(e)
    if type(e) == "table" and e.kind then
        return string.format("%s: %s (in <string>:%d)", e.kind, e.detail,
                             e.line or 1)
    end
    e = tostring(e)
    if e:find("not enough memory", 1, true) then
        e = "not enough memory"
    end
    return string.format("invalid operation: %s (in <string>:%d)", e,
                         limits.state.line)
end

--- The template as a function, or nil and an error.
function template.compile(source)
    if #source > MAX_SOURCE then
        return nil, string.format("syntax error: template of %d bytes, more "
            .. "than %d (in <string>:1)", #source, MAX_SOURCE)
    end
    local ok, run = pcall(function()
        return compile.template(parser.parse(source))
    end)
    if not ok then
        return nil, message(run)
    end
    return function(vars, options)
        limits.start(options)
        local done, text = pcall(run, vars, options and options.now)
        if not done then
            return nil, message(text)
        end
        return text
    end
end

return template
