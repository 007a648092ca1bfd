-- Pktgen (https://github.com/pktgen/Pktgen-DPDK) in front of dr-director: sends 64-byte UDP frames of many flows to a
-- VIP at rising rates, and counts what comes back from the director on the same port. docs/BENCHMARKS.md says how.
--
-- By environment:
--   DIRECTOR_MAC  MAC of the director's port (dr-ctl status); no default
--   FLOWS         flows, default 65536
--   RATES         percent of the line rate, default "1 2 5 10 20 30 40 50 60 70 80 90 100"
--   SECONDS       length of each step, default 10

local PORT = "0"
local PORT_NUMBER = 0
-- As in director.toml beside this file.
local VIP = "198.18.0.1"
local VIP_PORT = 80
-- 198.19.0.0/16, the other half of the networks for benchmarks.
local CLIENT_FIRST = "198.19.0.0"
local CLIENT_ADDRESSES = 65536
local CLIENT_PORT = 1024
-- Frames that are still under way when sending stops: this is ample.
local DRAIN_MS = 2000
local FRAME_BYTES = 64

local director_mac = os.getenv("DIRECTOR_MAC")
if not director_mac then
    error("set DIRECTOR_MAC to the MAC of the director's port: dr-ctl status shows it")
end
local wanted_flows = tonumber(os.getenv("FLOWS") or 65536)
local seconds = tonumber(os.getenv("SECONDS") or 10)

-- Pktgen steps address and port at the same time, so that their periods have to have no common factor for every pair to
-- occur: 65,536 addresses, a power of two, and an odd number of ports. Up to 65,536 flows there is one port.
local addresses = math.min(wanted_flows, CLIENT_ADDRESSES)
local ports = 1
if wanted_flows > CLIENT_ADDRESSES then
    ports = math.ceil(wanted_flows / CLIENT_ADDRESSES)
    ports = ports + 1 - ports % 2
end
local flows = addresses * ports

local function address(number)
    return string.format("198.19.%d.%d", math.floor(number / 256), number % 256)
end

-- start, least, most and step of one field of the range.
local function range(field, start, least, most, step)
    pktgen.range[field](PORT, "start", start)
    pktgen.range[field](PORT, "min", least)
    pktgen.range[field](PORT, "max", most)
    pktgen.range[field](PORT, "inc", step)
end

local function set_up()
    local no_step = "00:00:00:00:00:00"
    pktgen.range.ip_proto(PORT, "udp")
    range("dst_mac", director_mac, director_mac, director_mac, no_step)
    range("src_ip", CLIENT_FIRST, CLIENT_FIRST, address(addresses - 1), addresses > 1 and "0.0.0.1" or "0.0.0.0")
    range("dst_ip", VIP, VIP, VIP, "0.0.0.0")
    range("src_port", CLIENT_PORT, CLIENT_PORT, CLIENT_PORT + ports - 1, ports > 1 and 1 or 0)
    range("dst_port", VIP_PORT, VIP_PORT, VIP_PORT, 0)
    range("pkt_size", FRAME_BYTES, FRAME_BYTES, FRAME_BYTES, 0)
    -- Sent until told to stop.
    pktgen.set(PORT, "count", 0)
    pktgen.set_range(PORT, "on")
end

-- Packets sent and received since the start. Pktgen from 26.02 on takes the port alone and has them in `curr`.
local function counters()
    local is_new, stats = pcall(pktgen.portStats, PORT)
    if not is_new then
        stats = pktgen.portStats(PORT, "port")
    end
    local of_port = stats[PORT_NUMBER].curr or stats[PORT_NUMBER]
    return of_port.opackets, of_port.ipackets
end

-- Sends at this rate, and says what became of it.
local function step(rate)
    pktgen.set(PORT, "rate", rate)
    local sent_before, received_before = counters()
    pktgen.start(PORT)
    pktgen.delay(seconds * 1000)
    pktgen.stop(PORT)
    pktgen.delay(DRAIN_MS)
    local sent_after, received_after = counters()
    local sent, received = sent_after - sent_before, received_after - received_before
    local lost = sent - received
    print(string.format("%6.1f %% %10.3f %10.3f %12d %9.4f %%", rate, sent / seconds / 1e6, received / seconds / 1e6,
        lost, sent > 0 and lost / sent * 100 or 0))
end

pktgen.screen("off")
set_up()
-- Pktgen takes a moment to notice the link.
pktgen.delay(2000)
print(string.format("%d flows of UDP to %s:%d at %s, link %s", flows, VIP, VIP_PORT, director_mac,
    tostring(pktgen.linkState(PORT)[PORT_NUMBER])))
print("    rate  sent Mpps  back Mpps         lost       lost")
for rate in string.gmatch(os.getenv("RATES") or "1 2 5 10 20 30 40 50 60 70 80 90 100", "%S+") do
    step(tonumber(rate))
end
pktgen.quit()
