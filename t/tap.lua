--- tap.lua: TAP for plain LuaJIT tests: local tap = dofile "t/tap.lua".
package.path = "lua/?.lua;" .. package.path

local tap, n, bad = {}, 0, 0

function tap.ok(pass, name)
    n = n + 1
    print((pass and "ok " or "not ok ") .. n .. " - "
          .. tostring(name):gsub("#", "\\#"):gsub("\n", "\\n"))
    bad = bad + (pass and 0 or 1)
    return pass
end

local function show(v)
    return type(v) == "string" and string.format("%q", v) or tostring(v)
end

function tap.is(got, want, name)
    local pass = tap.ok(got == want, name)
    if not pass then
        tap.note("got  " .. show(got))
        tap.note("want " .. show(want))
    end
    return pass
end

function tap.note(text)
    for line in (text .. "\n"):gmatch("(.-)\n") do
        print("#   " .. line)
    end
end

--- f(...) must fail with a message that contains what.
function tap.fails(what, name, f, ...)
    local ok, err = pcall(f, ...)
    local pass = not ok and tostring(err):find(what, 1, true) ~= nil
    if not tap.ok(pass, name) then
        tap.note(ok and "did not fail" or "failed with " .. tostring(err))
    end
end

--- The contents of a file.
function tap.read(path)
    local f = assert(io.open(path, "rb"))
    local text = f:read "*a"
    f:close()
    return text
end

function tap.done_testing()
    print("1.." .. n)
    os.exit(bad == 0 and 0 or 1)
end

return tap
