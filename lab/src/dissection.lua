-- What tshark shall know besides its own for a lab's captures.
--
-- Payloads of TCP, UDP and SCTP are opaque: a test's "question 7" to port 53 is no malformed DNS of the director's.
-- Generic UDP Encapsulation (draft-ietf-intarea-gue), with the kernel's private flag for remote checksums.

local opaque = Proto("opaque", "Opaque payload")

function opaque.dissector(buffer)
    return buffer:len()
end

for _, ports in ipairs({ "tcp.port", "udp.port", "sctp.port" }) do
    DissectorTable.get(ports):add("0-65535", opaque)
end

-- The one port that the labs give their GUE tunnels.
local GUE_PORT = 6080

local gue = Proto("gue", "Generic UDP Encapsulation")
local malformed = ProtoExpert.new("gue.malformed", "Malformed GUE header", expert.group.MALFORMED, expert.severity.ERROR)
gue.experts = { malformed }

-- The Internet checksum of `bytes` from `start` on.
local function checksum(bytes, start)
    local sum = 0
    for index = start, bytes:len() - 1, 2 do
        local low = index + 1 < bytes:len() and bytes:get_index(index + 1) or 0
        sum = sum + bytes:get_index(index) * 256 + low
    end
    while sum > 0xffff do
        sum = sum % 0x10000 + math.floor(sum / 0x10000)
    end
    return 0xffff - sum
end

-- The packet as a receiver makes it whole: the checksum at `offset` is that of all from `start` on (the kernel's
-- include/net/checksum.h, remcsum_adjust).
local function with_remote_checksum(inner, start, offset)
    local bytes = inner:bytes()
    local value = checksum(bytes, start)
    bytes:set_index(offset, math.floor(value / 256))
    bytes:set_index(offset + 1, value % 256)
    return bytes:tvb("Remote checksum done")
end

function gue.dissector(buffer, info, tree)
    local subtree = tree:add(gue, buffer(0, 4))
    local first, protocol, flags = buffer(0, 1):uint(), buffer(1, 1):uint(), buffer(2, 2):uint()
    local header = 4 + first % 32 * 4
    -- Version 0 and no control message; of the flags only the private one, of the private flags only remote checksum.
    if first >= 32 or flags > 1 or header ~= (flags == 1 and 12 or 4) or header > buffer:len() then
        subtree:add_proto_expert_info(malformed)
        return buffer:len()
    end
    local inner = buffer(header):tvb()
    if flags == 1 then
        local start, offset = buffer(8, 2):uint(), buffer(10, 2):uint()
        if buffer(4, 4):uint() ~= 0x80000000 or start > inner:len() or offset + 2 > inner:len() then
            subtree:add_proto_expert_info(malformed)
            return buffer:len()
        end
        inner = with_remote_checksum(inner, start, offset)
    end
    local versions = { [4] = "ip", [41] = "ipv6" }
    if versions[protocol] then
        Dissector.get(versions[protocol]):call(inner, info, tree)
    else
        subtree:add_proto_expert_info(malformed)
    end
    return buffer:len()
end

DissectorTable.get("udp.port"):add(GUE_PORT, gue)
