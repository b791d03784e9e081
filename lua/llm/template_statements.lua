--- llm.template_statements: the tags {% ... %} of the parser.
--
-- Returns methods that template_parser.lua adds to its class.  A body is a
-- list of nodes; a statement node needs no height: the nesting of bodies is
-- bounded by Parser:enter().

local RESERVED = { ["true"] = true, ["True"] = true, ["false"] = true,
                   ["False"] = true, none = true, None = true }

local Parser = {}

function Parser:target(stop)
    local token = self.token
    if token.type == "name" and self:peek().type == "op"
        and self:peek().value == "."
    then
        self:next()
        self:next()
        local attr = self:expect("name").value
        return self:node("ns_target", token.line,
                         { name = token.value, attr = attr })
    end
    local function one(p)
        if p:skip("op", "(") then
            p:enter()
            local inner = p:tuple({ parens = true, item = one })
            p:leave()
            p:expect("op", ")")
            return inner
        end
        local t = p:expect("name")
        local node = p:node("name", t.line, { name = t.value })
        if RESERVED[t.value] then
            p:fail("can't assign to '" .. t.value .. "'", t.line)
        end
        return node
    end
    return self:tuple({ stop = stop, item = one })
end

-- Statements up to {% one of names %}, whose name is consumed and returned.
function Parser:body(names)
    self:enter()
    local list = {}
    while true do
        local token = self.token
        if token.type == "data" then
            self:next()
            list[#list + 1] = { tag = "data", value = token.value,
                                line = token.line }
        elseif token.type == "begin_print" then
            self:next()
            list[#list + 1] = { tag = "print", line = token.line,
                                self:tuple({}) }
            self:expect("end_print")
        elseif token.type == "begin_block" then
            self:next()
            local name = self.token
            if name.type ~= "name" then
                self:fail("tag name expected")
            end
            self:next()
            if names[name.value] then
                self:leave()
                return list, name.value
            end
            list[#list + 1] = self:statement(name, names)
        elseif names.eof then
            self:leave()
            return list
        else
            local wanted = {}
            for n in pairs(names) do
                wanted[#wanted + 1] = "'" .. n .. "'"
            end
            table.sort(wanted)
            self:fail("Unexpected end of template. Jinja was looking for the "
                .. "following tags: " .. table.concat(wanted, " or "))
        end
    end
end

local STATEMENTS = {}

function Parser:statement(name, names)
    local parse = STATEMENTS[name.value]
    if not parse then
        local what = "Encountered unknown tag '" .. name.value .. "'."
        if names.eof == nil then
            what = what .. " Something inside is not closed."
        end
        self:fail(what, name.line)
    end
    local node = parse(self, name.line)
    node.line = name.line
    return node
end

STATEMENTS["if"] = function(self)
    local branches, tag = {}, "elif"
    local other
    while tag == "elif" do
        local test = self:tuple({ no_cond = true })
        self:expect("end_block")
        local body
        body, tag = self:body({ ["elif"] = true, ["else"] = true,
                                endif = true })
        branches[#branches + 1] = { test = test, body = body }
    end
    if tag == "else" then
        self:expect("end_block")
        other = self:body({ endif = true })
    end
    self:expect("end_block")
    return { tag = "if", branches = branches, other = other }
end

STATEMENTS["for"] = function(self)
    local target = self:target("in")
    self:expect("name", "in")
    local iter = self:tuple({ no_cond = true, stop = "recursive" })
    local test, other
    if self:skip("name", "if") then
        test = self:expression()
    end
    local recursive = self:skip("name", "recursive") ~= nil
    self:expect("end_block")
    self.loops = self.loops + 1
    local body, tag = self:body({ ["else"] = true, endfor = true })
    self.loops = self.loops - 1
    if tag == "else" then
        self:expect("end_block")
        other = self:body({ endfor = true })
    end
    self:expect("end_block")
    return { tag = "for", target = target, iter = iter, test = test,
             recursive = recursive, body = body, other = other }
end

local function loop_control(tag)
    return function(self)
        if self.loops == 0 then
            self:fail("'" .. tag .. "' outside loop")
        end
        self:expect("end_block")
        return { tag = tag }
    end
end
STATEMENTS["break"] = loop_control("break")
STATEMENTS["continue"] = loop_control("continue")

-- The body of a macro, a call or a block that becomes a string: loop
-- controls cannot leave it.
function Parser:closed_body(name)
    local loops = self.loops
    self.loops = 0
    local body = self:body({ [name] = true })
    self.loops = loops
    self:expect("end_block")
    return body
end

STATEMENTS["set"] = function(self)
    local target = self:target()
    if self:skip("op", "=") then
        local value = self:tuple({})
        self:expect("end_block")
        return { tag = "set", target = target, value = value }
    end
    local filter
    while self:is_op("|") do
        filter = self:filter(filter)
    end
    self:expect("end_block")
    return { tag = "set_block", target = target, filter = filter,
             body = self:closed_body("endset") }
end

STATEMENTS["with"] = function(self)
    local targets, values = {}, {}
    while not self:is("end_block") do
        if #targets > 0 then
            self:expect("op", ",")
        end
        targets[#targets + 1] = self:target()
        self:expect("op", "=")
        values[#values + 1] = self:expression()
    end
    self:expect("end_block")
    local body = self:body({ endwith = true })
    self:expect("end_block")
    return { tag = "with", targets = targets, values = values, body = body }
end

function Parser:signature()
    local params, defaults, has_default = {}, {}, false
    self:expect("op", "(")
    while not self:is_op(")") do
        if #params > 0 then
            self:expect("op", ",")
        end
        params[#params + 1] = self:expect("name").value
        if self:skip("op", "=") then
            defaults[#params] = self:expression()
            has_default = true
        elseif has_default then
            self:fail("non-default argument follows default argument")
        end
    end
    self:expect("op", ")")
    return params, defaults
end

STATEMENTS["macro"] = function(self)
    local name = self:expect("name").value
    local params, defaults = self:signature()
    self:expect("end_block")
    return { tag = "macro", name = name, params = params,
             defaults = defaults, body = self:closed_body("endmacro") }
end

STATEMENTS["call"] = function(self)
    local params, defaults = {}, {}
    if self:is_op("(") then
        params, defaults = self:signature()
    end
    local call = self:expression()
    if call.tag ~= "call" then
        self:fail("expected call")
    end
    self:expect("end_block")
    return { tag = "call_block", call = call, params = params,
             defaults = defaults, body = self:closed_body("endcall") }
end

STATEMENTS["filter"] = function(self)
    self.pos = self.pos - 1                 -- filter() skips the '|'
    local filter = self:filter(nil)
    while self:is_op("|") do
        filter = self:filter(filter)
    end
    self:expect("end_block")
    return { tag = "filter_block", filter = filter,
             body = self:closed_body("endfilter") }
end

STATEMENTS["print"] = function(self)
    local values = { self:expression() }
    while self:skip("op", ",") do
        values[#values + 1] = self:expression()
    end
    self:expect("end_block")
    return { tag = "print_all", values = values }
end

-- transformers marks assistant text with it; it changes nothing else
STATEMENTS["generation"] = function(self)
    self:expect("end_block")
    return { tag = "scope", body = self:closed_body("endgeneration") }
end

for _, tag in ipairs { "include", "import", "from", "extends", "block" } do
    STATEMENTS[tag] = function(self, line)
        self:fail("{% " .. tag .. " %} is not supported: a chat template "
                  .. "stands alone", line)
    end
end

return Parser
