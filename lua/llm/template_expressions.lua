--- llm.template_expressions: expression nodes -> function(scope) -> value.
--
-- Returns methods that template_compile.lua adds to its class: one in EXPR
-- for each tag, args() for what stands in parentheses, filter().

local json = require "llm.json"
local limits = require "llm.template_limits"
local value = require "llm.template_value"
local access = require "llm.template_access"
local scope = require "llm.template_scope"
local filters = require "llm.template_sequences"
local tests = require "llm.template_tests"

local EXPR = {}
local Compiler = { EXPR = EXPR }

local state = limits.state
local step, fail, bytes = limits.step, limits.fail, limits.bytes
local truth, str, undefined, null = value.truth, value.str, value.undefined,
    json.null
local attr, item, call_value, call_method = access.attr, access.item,
    access.call, access.call_method
local lookup = scope.lookup
local concat = table.concat

-- Names ----------------------------------------------------------------------

EXPR.name = function(self, node)
    local name = node.name
    if name == "caller" or name == "varargs" or name == "kwargs" then
        for _, uses in ipairs(self.macros) do
            uses[name] = true
        end
    end
    return function(s)
        return lookup(s, name)
    end
end

EXPR.const = function(_, node)
    local v = node.value
    return function()
        return v
    end
end

EXPR.none = function()
    return function()
        return null
    end
end

-- Operators ------------------------------------------------------------------

EXPR["or"] = function(self, node)
    local a, b = self:expr(node[1]), self:expr(node[2])
    return function(s)
        local v = a(s)
        if truth(v) then
            return v
        end
        return b(s)
    end
end

EXPR["and"] = function(self, node)
    local a, b = self:expr(node[1]), self:expr(node[2])
    return function(s)
        local v = a(s)
        if truth(v) then
            return b(s)
        end
        return v
    end
end

EXPR["not"] = function(self, node)
    local a = self:expr(node[1])
    return function(s)
        return not truth(a(s))
    end
end

EXPR.cond = function(self, node)
    local test = self:expr(node.test)
    local yes, no = self:softly(function()
        return self:expr(node.yes), node.no and self:expr(node.no)
    end)
    local line = node.line
    return function(s)
        if truth(test(s)) then
            return yes(s)
        elseif no then
            return no(s)
        end
        return undefined("the inline if-expression on line " .. line
            .. " evaluated to false and no else section was defined.")
    end
end

EXPR.binary = function(self, node)
    local a, b, op = self:expr(node[1]), self:expr(node[2]), node.op
    local binary, line = value.binary, node.line
    return function(s)
        local x, y = a(s), b(s)
        state.line = line
        return binary(op, x, y)
    end
end

EXPR.sign = function(self, node)
    local a, op = self:expr(node[1]), node.op
    return function(s)
        return value.sign(op, a(s))
    end
end

EXPR.concat = function(self, node)
    local parts = self:exprs(node)
    local n = #parts
    return function(s)
        local out, size = {}, 0
        for i = 1, n do
            local text = str(parts[i](s))
            out[i] = text
            size = size + #text
        end
        bytes(size)
        return concat(out)
    end
end

local COMPARE = {
    ["=="] = value.equal,
    ["!="] = function(a, b) return not value.equal(a, b) end,
    ["<"] = function(a, b) return value.compare("<", a, b) < 0 end,
    ["<="] = function(a, b) return value.compare("<=", a, b) <= 0 end,
    [">"] = function(a, b) return value.compare(">", a, b) > 0 end,
    [">="] = function(a, b) return value.compare(">=", a, b) >= 0 end,
    ["in"] = function(a, b) return value.contains(b, a) end,
    ["not in"] = function(a, b) return not value.contains(b, a) end,
}

EXPR.compare = function(self, node)
    local first, operands = self:expr(node.first), self:exprs(node.operands)
    local ops, line = {}, node.line
    for i, op in ipairs(node.ops) do
        ops[i] = COMPARE[op]
    end
    local n = #ops
    if n == 1 then
        local op, second = ops[1], operands[1]
        return function(s)
            local a, b = first(s), second(s)
            state.line = line
            return op(a, b)
        end
    end
    return function(s)
        local left = first(s)
        for i = 1, n do
            local right = operands[i](s)
            state.line = line
            if not ops[i](left, right) then
                return false
            end
            left = right
        end
        return true
    end
end

-- Containers -----------------------------------------------------------------

local function evaluate(list, s)
    local out = {}
    for i = 1, #list do
        out[i] = list[i](s)
    end
    return out
end

EXPR.list = function(self, node)
    local parts = self:exprs(node)
    return function(s)
        return value.list(evaluate(parts, s))
    end
end

EXPR.tuple = function(self, node)
    local parts = self:exprs(node)
    return function(s)
        return value.tuple(evaluate(parts, s))
    end
end

EXPR.dict = function(self, node)
    local keys, values = self:exprs(node.keys), self:exprs(node.values)
    return function(s)
        local t, order = {}, {}
        for i = 1, #keys do
            local key = value.key(keys[i](s))
            if t[key] == nil then
                order[#order + 1] = key
            end
            t[key] = values[i](s)
        end
        return value.dict(t, order)
    end
end

EXPR.attr = function(self, node)
    local v, name, line = self:expr(node[1]), node.name, node.line
    return function(s)
        local object = v(s)
        state.line = line
        return attr(object, name)
    end
end

EXPR.item = function(self, node)
    local v, key, line = self:expr(node[1]), self:expr(node[2]), node.line
    return function(s)
        local object, k = v(s), key(s)
        state.line = line
        return item(object, k)
    end
end

EXPR.slice = function(self, node)
    if not node[1] then
        self:syntax(node, "a slice cannot be part of a tuple")
    end
    local v, bounds = self:expr(node[1]), {}
    for i = 1, 3 do
        bounds[i] = node.bounds[i] and self:expr(node.bounds[i])
    end
    local a, b, c = bounds[1], bounds[2], bounds[3]
    return function(s)
        return value.slice(v(s), a and a(s), b and b(s), c and c(s))
    end
end

-- Calls, filters, tests ------------------------------------------------------

local EMPTY = {}

-- function(scope) -> args, kw for the arguments of a call node
function Compiler:args(a)
    local args, values = self:exprs(a.args), self:exprs(a.values)
    local names = a.names
    local dyn_args = a.dyn_args and self:expr(a.dyn_args)
    local dyn_kwargs = a.dyn_kwargs and self:expr(a.dyn_kwargs)
    if #args == 0 and #names == 0 and not dyn_args and not dyn_kwargs then
        return function()
            return EMPTY, nil
        end
    end
    return function(s)
        local list, kw = evaluate(args, s), nil
        if dyn_args then
            list = value.join_lists(list, value.items(dyn_args(s)))
        end
        if #names > 0 or dyn_kwargs then
            kw = { names = {}, map = {} }
            for i = 1, #names do
                kw.names[i] = names[i]
                kw.map[names[i]] = values[i](s)
            end
        end
        if dyn_kwargs then
            local more = dyn_kwargs(s)
            if value.kind(more) ~= "object" then
                value.type_error("argument after ** must be a mapping, not "
                                 .. value.type_name(more))
            end
            for _, name in ipairs(json.canonical_keys(more)) do
                if kw.map[name] == nil then
                    kw.names[#kw.names + 1] = name
                end
                kw.map[name] = rawget(more, name)
            end
        end
        return list, kw
    end
end

EXPR.call = function(self, node)
    local args, line = self:args(node.args), node.line
    local target = node[1]
    if target.tag == "attr" then
        local object, name = self:expr(target[1]), target.name
        return function(s)
            local v = object(s)
            local list, kw = args(s)
            step(line)
            return call_method(v, name, list, kw)
        end
    end
    local callee = self:expr(target)
    return function(s)
        local f = callee(s)
        local list, kw = args(s)
        step(line)
        local result = call_value(f, list, kw)
        state.line = line
        return result
    end
end

-- function(scope, input) -> value; input replaces the missing first operand
-- of {% filter %} and {% set %} blocks
function Compiler:filter(node)
    local name, line = node.name, node.line
    local f = filters[name]
    if not f and self.soft == 0 then
        error({ kind = "unknown filter", line = line,
                detail = "No filter named '" .. name .. "'." }, 0)
    end
    local inner
    if not node[1] then
        inner = function(_, input)
            return input
        end
    elseif node[1].tag == "filter" then
        inner = self:filter(node[1])
    else
        inner = self:expr(node[1])
    end
    local args = self:args(node.args)
    return function(s, input)
        local v = inner(s, input)
        local list, kw = args(s)
        step(line)
        if not f then
            fail("unknown filter", "No filter named '" .. name .. "'.")
        end
        return f(v, list, kw)
    end
end

EXPR.filter = function(self, node)
    return self:filter(node)
end

EXPR.test = function(self, node)
    local name, line = node.name, node.line
    if not tests.has(name) and self.soft == 0 then
        error({ kind = "unknown test", line = line,
                detail = "No test named '" .. name .. "'." }, 0)
    end
    local v, args = self:expr(node[1]), self:args(node.args)
    return function(s)
        local x = v(s)
        local list, kw = args(s)
        state.line = line
        return tests.get(name)(x, list, kw)
    end
end

return Compiler
