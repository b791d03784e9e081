--- llm.sandbox: what hooks see, and how the C side runs them.
--
-- boot(core) is called once for each Lua state with the functions of
-- ngx_http_llm_lua_api.c and returns the entry points that
-- ngx_http_llm_lua.c calls.  Owns: the environment of hooks, the cache of
-- compiled templates.  Does not own: coroutines, limits of time and memory.
--
-- Each request has an environment of its own: globals that a hook sets are
-- gone with the request, and the libraries it sees cannot be changed.

local json = require "llm.json"
local template = require "llm.template"
local unicode = require "llm.unicode"

local setmetatable, type, error, tostring = setmetatable, type, error,
    tostring
local setfenv, pcall, select, ipairs, pairs = setfenv, pcall, select, ipairs,
    pairs
local concat = table.concat

local MAX_TEMPLATES = 16
local MAX_PCALL = 50

-- Libraries ------------------------------------------------------------------

-- The metatable of views of t that can be read and called but not changed.
local function view_of(t, what)
    return {
        __metatable = false,
        __index = t,
        __newindex = function(_, key)
            error(what .. " cannot be changed (" .. tostring(key) .. ")", 2)
        end,
    }
end

local function readonly(t, what)
    return setmetatable({}, view_of(t, what))
end

local function copy(t, names)
    local out = {}
    for name in names:gmatch("%S+") do
        out[name] = t[name]
    end
    return out
end

-- No load, no getfenv and setfenv, no rawset, no coroutine, io, debug, ffi,
-- package: nothing that leaves the sandbox or changes what others see.
local GLOBALS = [[assert error getmetatable ipairs next pairs rawequal rawget
    select setmetatable tonumber tostring type unpack _VERSION]]
local STRING = [[byte char find format gmatch gsub len lower match rep reverse
    sub upper]]
local MATH = [[abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp
    huge ldexp log log10 max min modf pi pow rad random sin sinh sqrt tan
    tanh]]
local TABLE = "concat insert maxn remove sort"
local BIT = [[arshift band bnot bor bswap bxor lshift rol ror rshift tobit
    tohex]]
local OS = "clock date difftime time"

-- Writes one line: what comes from a client cannot begin another.
local function write_log(core, level, text)
    core.log(level, (text:gsub("[%z\1-\8\10-\31\127]", " ")))
end

-- What require() gives to hooks; the rest of llm.* is not for them.
local MODULES = { ["llm.json"] = true, ["llm.moderation"] = true,
                  ["llm.unicode"] = true }

local function make_require(core, new_env)
    local loaded = {}

    return function(name)
        if type(name) ~= "string" then
            error("require needs the name of a module", 2)
        elseif MODULES[name] then
            return readonly(require(name), name)
        elseif loaded[name] ~= nil then
            return loaded[name]
        end
        local chunk, message = core.load_module(name)
        if not chunk then
            error("module '" .. name .. "' not found: " .. message, 2)
        end
        local module = setfenv(chunk, new_env())(name)
        if module == nil then
            module = true
        end
        loaded[name] = module
        return module
    end
end

-- pcall and xpcall.  Where the Lua stack is nearly full, the hook that enforces
-- the limits cannot run, and a script that catches the overflow again and again
-- would never end: so protected calls of a request nest only so far.  The
-- handler of xpcall runs after the error, because during it that hook is off.
local function add_protected_calls(globals, core)
    local function leave(state, ...)
        state.depth = state.depth - 1
        return ...
    end

    local function protected(f, ...)
        local state = core.current()
        if state.depth >= MAX_PCALL then
            error("protected calls nested deeper than " .. MAX_PCALL, 2)
        end
        state.depth = state.depth + 1
        return leave(state, pcall(f, ...))
    end

    local function handled(handler, ok, ...)
        if ok then
            return ok, ...
        end
        return false, handler(...)
    end

    globals.pcall = protected
    globals.xpcall = function(f, handler, ...)
        return handled(handler, protected(f, ...))
    end
end

-- A function that makes environments: each has views of the libraries of its
-- own, because table.insert() can put things into a view.
local function make_environments(core, api)
    local globals = copy(_G, GLOBALS)
    local libraries = {
        string = copy(string, STRING), math = copy(math, MATH),
        table = copy(table, TABLE), os = copy(os, OS),
        bit = copy(bit, BIT), llm = api,
    }
    local views = {}
    for name, library in pairs(libraries) do
        views[name] = view_of(library, name)
    end
    local mt = { __metatable = false, __index = globals }

    local function new_env()
        local env = setmetatable({}, mt)
        for name, view in pairs(views) do
            env[name] = setmetatable({}, view)
        end
        env._G = env
        return env
    end

    globals.require = make_require(core, new_env)
    add_protected_calls(globals, core)
    globals.print = function(...)
        local parts = {}
        for i = 1, select("#", ...) do
            parts[i] = tostring((select(i, ...)))
        end
        write_log(core, "info", concat(parts, "\t"))
    end
    return new_env
end

-- Templates ------------------------------------------------------------------

-- Least recently used first; {source, run} each
local templates = {}

-- The compiled template, or nil and an error.
local function compiled(source)
    for i = #templates, 1, -1 do
        local entry = templates[i]
        if entry.source == source then
            if i < #templates then
                table.remove(templates, i)
                templates[#templates + 1] = entry
            end
            return entry.run
        end
    end
    local run, err = template.compile(source)
    if not run then
        return nil, err
    end
    if #templates >= MAX_TEMPLATES then
        table.remove(templates, 1)
    end
    templates[#templates + 1] = { source = source, run = run }
    return run
end

-- The text of a template, or nil and an error; output is a limit in bytes.
local function render(source, vars, output)
    local run, err = compiled(source)
    if not run then
        return nil, err
    end
    return run(vars, { output = output })
end

-- llm.* ------------------------------------------------------------------------

local STOP_MT = { __metatable = false }
local is_stop = setmetatable({}, { __mode = "k" })

local function stop(text)
    if text ~= nil and type(text) ~= "string" then
        error("llm.stop needs a string or nothing", 2)
    end
    local marker = setmetatable({ text = text or "" }, STOP_MT)
    is_stop[marker] = true
    return marker
end

local function urlencode(v)
    return (tostring(v):gsub("[^%w_.~-]", function(c)
        return ("%%%02X"):format(c:byte())
    end))
end

-- "a=1&b=2" of a table, keys sorted; a string is taken as it is.
local function query(args)
    if args == nil or type(args) == "string" then
        return args or ""
    elseif type(args) ~= "table" then
        error("llm.fetch: args must be a string or a table", 3)
    end
    local parts = {}
    for i, key in ipairs(json.keys(args)) do
        parts[i] = urlencode(key) .. "=" .. urlencode(args[key])
    end
    return concat(parts, "&")
end

local function make_fetch(core)
    return function(uri, options)
        if type(uri) ~= "string" then
            error("llm.fetch needs a URI", 2)
        end
        options = options or {}
        local headers = {}
        for name, v in pairs(options.headers or {}) do
            headers[#headers + 1] = tostring(name)
            headers[#headers + 1] = tostring(v)
        end
        local body = options.body
        if type(body) == "table" then
            body = json.encode(body)
        end
        return core.fetch(uri, options.method or (body and "POST" or "GET"),
                          query(options.args), body, headers)
    end
end

local function make_log(core)
    return function(level, ...)
        local parts = {}
        for i = 1, select("#", ...) do
            local v = (select(i, ...))
            if type(v) == "table" then
                local ok, text = pcall(json.encode, v)
                v = ok and text or tostring(v)
            end
            parts[i] = tostring(v)
        end
        write_log(core, level, concat(parts))
    end
end

-- what a request hands to the template by itself
local PASSED = { "tools", "documents", "reasoning_effort", "enable_thinking" }

-- Adds the fields of a JSON object to the variables of a template.
local function add_variables(vars, from)
    if from ~= nil and from ~= json.null then
        for _, key in ipairs(json.keys(from)) do
            vars[key] = json.normalize(from[key])
        end
    end
end

-- llm.template(messages, vars) of one request: the text that the model's chat
-- template makes of messages, with the variables the request asks for.
local function make_template(core, limits, state)
    return function(messages, vars)
        local source, bos_token, eos_token = core.template()
        if source == "" then
            error("llm.template: the model has no chat template", 2)
        end
        local req = state.req or {}
        local all = { bos_token = bos_token, eos_token = eos_token,
                      add_generation_prompt =
                          req.add_generation_prompt ~= false }
        for _, name in ipairs(PASSED) do
            if req[name] ~= nil and req[name] ~= json.null then
                all[name] = json.normalize(req[name])
            end
        end
        add_variables(all, req.chat_template_kwargs)
        add_variables(all, vars)
        all.messages = json.normalize(messages)
        local text, err = render(source, all, limits.output)
        if not text then
            error("llm.template: " .. err, 2)
        end
        return text
    end
end

local function make_api(core)
    return {
        null = json.null,
        json = readonly({ encode = json.encode, decode = json.decode,
                          array = json.array, object = json.object },
                        "llm.json"),
        fetch = make_fetch(core), log = make_log(core),
        stop = stop, sleep = core.sleep, refuse = core.refuse,
        var = core.var, header = core.header,
    }
end

-- Entry points ---------------------------------------------------------------

local function hook_result(ret)
    if ret == nil then
        return nil
    elseif type(ret) == "string" then
        return unicode.fix(ret), false
    elseif is_stop[ret] then
        return unicode.fix(ret.text), true
    end
    error("an output hook returns a string, nil or llm.stop(text), not a "
          .. type(ret), 0)
end

return function(core, limits)
    debug.getmetatable("").__metatable = false
    local api = make_api(core)
    local new_env = make_environments(core, api)
    local own_mt = { __metatable = false, __index = api }
    local entry = { render = render }

    --- The Lua side of a request, shared by its hooks.
    function entry.new()
        local state = { hooks = {}, depth = 0, env = new_env() }
        state.env.llm = setmetatable({
            ctx = {}, template = make_template(core, limits, state),
        }, own_mt)
        return state
    end

    -- The hook's function in the environment of the request.  factory is
    -- "return function(...) <source> end": each request has a closure of its
    -- own, because one that waits must keep its environment.
    local function bind(state, factory)
        local f = state.hooks[factory]
        if not f then
            f = setfenv(factory, state.env)()
            state.hooks[factory] = f
        end
        return f
    end

    --- Runs a prompt hook: the request as JSON text, the prompt or nil.
    function entry.prompt(state, factory, req)
        state.req, state.depth = req, 0
        local ret = bind(state, factory)(req)
        if ret ~= nil and type(ret) ~= "string" then
            error("a prompt hook returns a string or nothing, not a "
                  .. type(ret), 0)
        end
        return json.encode(req), ret and unicode.fix(ret)
    end

    --- Runs an output hook: text and whether to stop, or nil to hold back.
    function entry.output(state, factory, piece, last)
        state.depth = 0
        return hook_result((bind(state, factory)(piece, last)))
    end

    --- For C: how JSON values are made.
    entry.null, entry.int, entry.float = json.null, json.int, json.float
    entry.array = json.array()

    return entry
end
