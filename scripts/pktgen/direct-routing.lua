-- Pktgen (https://github.com/pktgen/Pktgen-DPDK) in front of dr-director: replays the bench's traffic to a VIP at rising
-- rates, and counts what comes back from the director on the same port. docs/BENCHMARKS.md says how.
--
-- Pktgen is started with the traffic (-s 0:FILE.pcap): its range mode makes no more flows than its pool has mbufs.
-- By environment:
--   FLOWS    flows in the file, default 65536
--   RATES    percent of the line rate, default "1 2 5 10 20 30 40 50 60 70 80 90 100"
--   OPEN     the rate at which connections are opened first, default 1
--   SECONDS  length of each step, default 10

local PORT = "0"
local PORT_NUMBER = 0
-- A SYN and an ACK.
local FRAMES_PER_FLOW = 2
-- Frames that are still under way when sending stops: this is ample, and Pktgen reads its counters every second.
local DRAIN_MS = 3000
local POLL_MS = 100

local flows = tonumber(os.getenv("FLOWS") or 65536)
local seconds = tonumber(os.getenv("SECONDS") or 10)
local opening_rate = tonumber(os.getenv("OPEN") or 1)
local rates = os.getenv("RATES") or "1 2 5 10 20 30 40 50 60 70 80 90 100"

-- Packets sent and received since the start. Pktgen from 26.02 on takes the port alone and has them in `curr`.
local function counters()
    local is_new, stats = pcall(pktgen.portStats, PORT)
    if not is_new then
        stats = pktgen.portStats(PORT, "port")
    end
    local of_port = stats[PORT_NUMBER].curr or stats[PORT_NUMBER]
    return of_port.opackets, of_port.ipackets
end

-- Sends while `send` runs, and says what became of it; `duration` is how long that is, in seconds, where it is known.
local function step(name, rate, duration, send)
    pktgen.set(PORT, "rate", rate)
    local sent_before, received_before = counters()
    pktgen.start(PORT)
    send()
    pktgen.stop(PORT)
    pktgen.delay(DRAIN_MS)
    local sent_after, received_after = counters()
    local sent, received = sent_after - sent_before, received_after - received_before
    local lost = sent - received
    local rates_seen = ""
    if duration then
        rates_seen = string.format("%10.3f %10.3f", sent / duration / 1e6, received / duration / 1e6)
    end
    print(string.format("%6s %6.1f %12d %12d %10d %9.4f %s", name, rate, sent, received, lost,
        sent > 0 and lost / sent * 100 or 0, rates_seen))
end

-- The whole file once: a SYN of every flow.
local function open_connections()
    pktgen.set(PORT, "count", flows * FRAMES_PER_FLOW)
    step("open", opening_rate, nil, function()
        repeat
            pktgen.delay(POLL_MS)
        until pktgen.isSending(PORT)[PORT_NUMBER] ~= "y"
    end)
    -- From here on until told to stop.
    pktgen.set(PORT, "count", 0)
end

pktgen.screen("off")
pktgen.pcap(PORT, "on")
-- Pktgen takes a moment to notice the link.
pktgen.delay(3000)
print(string.format("%d flows, steps of %d s, link %s", flows, seconds, tostring(pktgen.linkState(PORT)[PORT_NUMBER])))
print("  step   rate         sent         back       lost      lost  sent Mpps  back Mpps")
print("            %                                               %")
open_connections()
for rate in string.gmatch(rates, "%S+") do
    step("replay", tonumber(rate), seconds, function()
        pktgen.delay(seconds * 1000)
    end)
end
pktgen.quit()
