--- llm.template_blocks: statement nodes -> function(scope, out) -> signal.
--
-- Returns methods that template_compile.lua adds to its class: one in STMT
-- for each tag, one in ASSIGN for each kind of target.  The signal is nil,
-- BREAK or CONTINUE and leaves every body up to the loop.

local limits = require "llm.template_limits"
local value = require "llm.template_value"
local access = require "llm.template_access"
local scope = require "llm.template_scope"

local STMT, ASSIGN = {}, {}
local Compiler = { STMT = STMT, ASSIGN = ASSIGN }

local BREAK, CONTINUE = 1, 2

local step, fail, charge = limits.step, limits.fail, limits.charge
local truth, str, undefined = value.truth, value.str, value.undefined
local call_value = access.call
local new_out, push, text_of = scope.new_out, scope.push, scope.text_of
local new_scope, lookup = scope.new, scope.lookup
local type = type

-- A list of statements as one function.
function Compiler:body(list)
    local run, lines = {}, {}
    for i, node in ipairs(list) do
        run[i] = STMT[node.tag](self, node)
        lines[i] = node.line
    end
    local n = #run
    return function(s, out)
        for i = 1, n do
            step(lines[i])
            local signal = run[i](s, out)
            if signal then
                return signal
            end
        end
    end
end

STMT.data = function(_, node)
    local text = node.value
    return function(_, out)
        push(out, text)
    end
end

STMT.print = function(self, node)
    local v = self:expr(node[1])
    return function(s, out)
        local text = v(s)
        if type(text) ~= "string" then
            text = str(text)
        end
        push(out, text)
    end
end

STMT.print_all = function(self, node)
    local values = self:exprs(node.values)
    return function(s, out)
        for i = 1, #values do
            push(out, str(values[i](s)))
        end
    end
end

STMT["if"] = function(self, node)
    local tests_, bodies, other = {}, {}, nil
    for i, branch in ipairs(node.branches) do
        tests_[i] = self:expr(branch.test)
        bodies[i] = self:softly(function()
            return self:body(branch.body)
        end)
    end
    if node.other then
        other = self:softly(function()
            return self:body(node.other)
        end)
    end
    local n = #bodies
    return function(s, out)
        for i = 1, n do
            if truth(tests_[i](s)) then
                return bodies[i](s, out)
            end
        end
        if other then
            return other(s, out)
        end
    end
end

STMT["break"] = function()
    return function()
        return BREAK
    end
end

STMT["continue"] = function()
    return function()
        return CONTINUE
    end
end

-- Assignment -----------------------------------------------------------------

function Compiler:assign(node)
    return self.ASSIGN[node.tag](self, node)
end

ASSIGN.name = function(_, node)
    local name = node.name
    return function(s, v)
        s.vars[name] = v
    end
end

ASSIGN.ns_target = function(_, node)
    local name, key = node.name, node.attr
    return function(s, v)
        access.set_namespace(lookup(s, name), key, v)
    end
end

ASSIGN.tuple = function(self, node)
    local targets = {}
    for i = 1, #node do
        targets[i] = self:assign(node[i])
    end
    local n = #targets
    return function(s, v)
        local k = value.kind(v)
        if k ~= "string" and k ~= "object" and k ~= "undefined"
            and not value.SEQUENCE[k]
        then
            fail("cannot unpack", "cannot unpack non-iterable "
                 .. value.type_name(v) .. " object")
        end
        local list = value.items(v)
        if #list < n then
            fail("cannot unpack", string.format(
                "not enough values to unpack (expected %d, got %d)", n,
                #list))
        elseif #list > n then
            fail("cannot unpack", string.format(
                "too many values to unpack (expected %d)", n))
        end
        for i = 1, n do
            targets[i](s, list[i])
        end
    end
end

STMT.set = function(self, node)
    local v, assign = self:expr(node.value), self:assign(node.target)
    return function(s)
        assign(s, v(s))
    end
end

-- function(scope) -> the text of a body that has its own scope
function Compiler:capture(list)
    local body = self:body(list)
    return function(s)
        local out = new_out()
        body(new_scope(s), out)
        return text_of(out)
    end
end

STMT.set_block = function(self, node)
    local capture, assign = self:capture(node.body), self:assign(node.target)
    local filter = node.filter and self:filter(node.filter)
    return function(s)
        local v = capture(s)
        if filter then
            v = filter(s, v)
        end
        assign(s, v)
    end
end

STMT.filter_block = function(self, node)
    local capture, filter = self:capture(node.body), self:filter(node.filter)
    return function(s, out)
        push(out, str(filter(s, capture(s))))
    end
end

STMT.scope = function(self, node)
    local capture = self:capture(node.body)
    return function(s, out)
        push(out, capture(s))
    end
end

STMT.with = function(self, node)
    local values, targets = self:exprs(node.values), {}
    for i, target in ipairs(node.targets) do
        targets[i] = self:assign(target)
    end
    local body = self:body(node.body)
    return function(s, out)
        local inner = new_scope(s)
        for i = 1, #targets do
            targets[i](inner, values[i](s))
        end
        return body(inner, out)
    end
end

-- Loops ----------------------------------------------------------------------

local LOOP_FIELDS = {
    index = function(l) return l.index end,
    index0 = function(l) return l.index - 1 end,
    first = function(l) return l.index == 1 end,
    last = function(l) return l.index == l.length end,
    length = function(l) return l.length end,
    revindex = function(l) return l.length - l.index + 1 end,
    revindex0 = function(l) return l.length - l.index end,
    depth = function(l) return l.depth end,
    depth0 = function(l) return l.depth - 1 end,
    previtem = function(l)
        if l.index == 1 then
            return undefined("there is no previous item")
        end
        return l.list[l.index - 1]
    end,
    nextitem = function(l)
        if l.index == l.length then
            return undefined("there is no next item")
        end
        return l.list[l.index + 1]
    end,
    cycle = function(l)
        return value.callable("cycle", function(args)
            if #args == 0 then
                value.type_error("no items for cycling given")
            end
            return args[(l.index - 1) % #args + 1]
        end)
    end,
    changed = function(l)
        return value.callable("changed", function(args)
            local now = value.tuple(args)
            local changed = not (l.seen and value.equal(l.seen, now))
            l.seen = now
            return changed
        end)
    end,
}

local function new_loop(list, depth)
    local loop = { list = list, length = #list, index = 0, depth = depth }
    loop.fields = function(name)
        local field = LOOP_FIELDS[name]
        return field and field(loop)
    end
    return value.loop(loop)
end

-- The items of list that pass test, seen with the loop's targets.
local function filtered(list, test, assign, s)
    local out = {}
    for i = 1, #list do
        charge(1)
        local inner = new_scope(s)
        assign(inner, list[i])
        if truth(test(inner)) then
            out[#out + 1] = list[i]
        end
    end
    return out
end

STMT["for"] = function(self, node)
    local iter, assign = self:expr(node.iter), self:assign(node.target)
    local test = node.test and self:expr(node.test)
    local body = self:body(node.body)
    local other = node.other and self:body(node.other)
    local recursive, line = node.recursive, node.line

    local function run(s, out, v, depth)
        local list = value.items(v)
        if test then
            list = filtered(list, test, assign, s)
        end
        local n = #list
        if n == 0 then
            return other and other(new_scope(s), out)
        end
        local loop = new_loop(list, depth)
        loop.call = function(args)
            if not recursive then
                value.type_error("The loop must have the 'recursive' marker "
                                 .. "to be called recursively.")
            end
            limits.enter()
            local inner = new_out()
            run(s, inner, args[1], depth + 1)
            limits.leave()
            return text_of(inner)
        end
        for i = 1, n do
            step(line)
            loop.index = i
            local inner = { vars = { loop = loop }, up = s }
            assign(inner, list[i])
            if body(inner, out) == BREAK then
                break
            end
        end
    end

    return function(s, out)
        return run(s, out, iter(s), 1)
    end
end

-- Macros ---------------------------------------------------------------------

local function no_keyword(name, key)
    fail("too many arguments", "macro '" .. name
         .. "' takes no keyword argument '" .. key .. "'")
end

-- Fills vars from args and kw; what is left goes to varargs and kwargs.
local function bind_macro(m, vars, args, kw)
    local n, map, names = #m.params, {}, {}
    for i, name in ipairs(m.params) do
        if i <= #args then
            vars[name] = args[i]
        end
    end
    if kw then
        for _, key in ipairs(kw.names) do
            local v = kw.map[key]
            if m.is_param[key] and vars[key] == nil then
                vars[key] = v
            elseif key == "caller" and m.uses.caller then
                vars.caller = v
            elseif m.uses.kwargs and not m.is_param[key] then
                names[#names + 1] = key
                map[key] = v
            else
                no_keyword(m.name, key)
            end
        end
    end
    if m.uses.kwargs then
        vars.kwargs = value.dict(map, names)
    end
    if m.uses.varargs then
        local rest = {}
        for i = n + 1, #args do
            rest[#rest + 1] = args[i]
        end
        vars.varargs = value.tuple(rest)
    elseif #args > n then
        fail("too many arguments", string.format(
            "macro '%s' takes not more than %d argument(s)", m.name, n))
    end
    if m.uses.caller and vars.caller == nil then
        vars.caller = undefined("No caller defined")
    end
end

-- function(scope) -> the callable for a macro or caller node
function Compiler:macro(node, name)
    local uses = {}
    local m = { name = name, params = node.params, is_param = {},
                uses = uses }
    for _, param in ipairs(node.params) do
        m.is_param[param] = true
    end
    table.insert(self.macros, uses)
    local defaults = {}
    for i = 1, #node.params do
        defaults[i] = node.defaults[i] and self:expr(node.defaults[i])
    end
    local body = self:body(node.body)
    table.remove(self.macros)
    local is_param = m.is_param
    uses.caller = uses.caller and not is_param.caller
    uses.kwargs = uses.kwargs and not is_param.kwargs
    uses.varargs = uses.varargs and not is_param.varargs

    return function(s)
        local callable = value.callable(name, function(args, kw)
            local inner = new_scope(s)
            local out = new_out()
            bind_macro(m, inner.vars, args, kw)
            limits.enter()
            for i, param in ipairs(m.params) do
                if inner.vars[param] ~= nil then
                    -- given
                elseif defaults[i] then
                    inner.vars[param] = defaults[i](inner)
                else
                    inner.vars[param] = undefined("parameter '" .. param
                                                  .. "' was not provided")
                end
            end
            body(inner, out)
            limits.leave()
            return text_of(out)
        end)
        callable.macro = true
        return callable
    end
end

STMT.macro = function(self, node)
    local make, name = self:macro(node, node.name), node.name
    return function(s)
        s.vars[name] = make(s)
    end
end

STMT.call_block = function(self, node)
    local make = self:macro(node, "caller")
    local callee, args = self:expr(node.call[1]), self:args(node.call.args)
    return function(s, out)
        local list, kw = args(s)
        kw = kw or { names = {}, map = {} }
        kw.names[#kw.names + 1] = "caller"
        kw.map.caller = make(s)
        push(out, str(call_value(callee(s), list, kw)))
    end
end

return Compiler
