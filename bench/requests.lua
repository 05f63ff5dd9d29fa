-- What wrk sends, by the word after "--": post (a small JSON body), get, or heads (the same post, but no two heads are
-- alike, so that no server gains from remembering what it has parsed). The last line on standard output is JSON.

local BODY = '{"device":"kitchen-lamp","reading":21.5,"unit":"celsius","tag":"0000000001","text":"a line of text"}'

local function send_post()
    wrk.method = "POST"
    wrk.body = BODY
    wrk.headers["Content-Type"] = "application/json"
end

-- Only the counter is new in each request, so that making it costs the load next to nothing.
local function send_numbered_posts()
    send_post()
    wrk.headers["X-Request-Number"] = "@"
    local before, after = wrk.format():match("^(.-)@(.*)$")
    local number = 0
    request = function()
        number = number + 1
        return before .. number .. after
    end
end

local kinds = { post = send_post, get = function() end, heads = send_numbered_posts }

function init(arguments)
    kinds[arguments[1]]()
end

function done(summary, latency)
    local errors = summary.errors
    print(
        string.format(
            '{"p50": %.1f, "p99": %.1f, "rate": %.1f, "count": %d, "refused": %d, "broken": %d}',
            latency:percentile(50),
            latency:percentile(99),
            summary.requests / summary.duration * 1e6,
            summary.requests,
            errors.status,
            errors.connect + errors.read + errors.write + errors.timeout
        )
    )
end
