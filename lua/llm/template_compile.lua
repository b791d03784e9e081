--- llm.template_compile: syntax tree -> Lua closures.
--
-- No Lua source is made, so a template can reach nothing but the functions
-- of these modules: template_expressions.lua (values), template_blocks.lua
-- (statements), template_globals.lua (functions).

local limits = require "llm.template_limits"
local scope = require "llm.template_scope"
local globals = require "llm.template_globals"

local compile = {}

-- soft: depth of conditions; macros: what the macros around use
local Compiler = {}
Compiler.__index = Compiler

for _, part in ipairs { "llm.template_expressions", "llm.template_blocks" } do
    for name, method in pairs(require(part)) do
        Compiler[name] = method
    end
end

function Compiler:expr(node)
    return self.EXPR[node.tag](self, node)
end

function Compiler:exprs(list)
    local out = {}
    for i = 1, #list do
        out[i] = self:expr(list[i])
    end
    return out
end

function Compiler:syntax(node, message)
    error({ kind = "syntax error", detail = message, line = node.line }, 0)
end

-- Runs f with names of filters and tests resolved only when reached, as
-- Jinja does inside conditions.
function Compiler:softly(f)
    self.soft = self.soft + 1
    local a, b = f()
    self.soft = self.soft - 1
    return a, b
end

--- function(vars, now) -> text of a syntax tree; vars is a table of
-- canonical values by name, now a time for strftime_now or nil.
function compile.template(tree)
    local self = setmetatable({ soft = 0, macros = {} }, Compiler)
    local body = self:body(tree)
    local root = { vars = globals }
    return function(vars, now)
        local out = scope.new_out()
        limits.state.now = now
        body(scope.new({ vars = vars, up = root }), out)
        return scope.text_of(out)
    end
end

return compile
