//! Fragments put together, as their receiver does: the kernel puts them together itself and cuts the whole anew, dr-director
//! hands on the pieces.
//!
//! A whole stands where its last piece came out. Pieces that overlap, and those that never become a whole, come to nothing
//! (RFC 5722): the receiver drops them. A piece that came twice counts once.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::text::Text;
use super::{Header, Kind, Layer, build, parse, read};

/// Who got it, the headers before it, its addresses and identification.
type Key = (String, String, String);

/// Pieces of datagrams that are not whole yet.
#[derive(Debug, Default)]
pub struct Pieces(BTreeMap<Key, Vec<Piece>>);

#[derive(Clone, Debug)]
struct Piece {
    offset: usize,
    payload: Vec<u8>,
    is_last: bool,
    layers: Vec<Layer>,
}

/// Where the fragment is in a packet's layers.
struct Fragment {
    /// Place of its IP header.
    place: usize,
    /// Place of the header that says that it is one.
    said_by: usize,
}

impl Pieces {
    /// What came out in one step, put together with what came before it. `step` is its number.
    pub fn put_together(&mut self, step: usize, packets: &[String]) -> Result<Vec<String>> {
        let mut whole = Vec::new();
        for packet in packets {
            let (by, text) = packet.split_once(": ").context("no receiver")?;
            let mut layers = parse(text).with_context(|| format!("in `{text}`"))?;
            let is_whole = loop {
                let Some(fragment) = find_fragment(&layers) else { break true };
                let Some(together) = self.add(step, by, &layers, &fragment) else { break false };
                layers = together;
                settle_masks(&mut layers);
            };
            if is_whole {
                whole.push(format!("{by}: {}", Text(&layers)));
            }
        }
        Ok(whole)
    }

    fn add(&mut self, step: usize, by: &str, layers: &[Layer], fragment: &Fragment) -> Option<Vec<Layer>> {
        let (outer, rest) = layers.split_at(fragment.place);
        let (Layer::Header(ip), Layer::Header(said)) = (rest.first()?, &layers[fragment.said_by]) else {
            return None;
        };
        // A random identification is known in its own step only.
        let id = match said.masked.get("id") {
            Some(number) => format!("*{number} of {step}"),
            None => format!("{:?}", said.fields.get("id")),
        };
        let value = |name: &str| said.fields.get(name).copied().unwrap_or(0);
        let piece = Piece {
            offset: value("off") as usize * 8,
            is_last: value("mf") == 0,
            payload: payload(layers, fragment),
            layers: layers.to_vec(),
        };
        let outer = outer.iter().map(shown_outer).collect::<Vec<_>>().join(" / ");
        let key = (by.to_owned(), outer, format!("{:?} {id}", ip.addresses));
        let pieces = self.0.entry(key.clone()).or_default();
        let is_again = |other: &Piece| {
            (other.offset, other.is_last) == (piece.offset, piece.is_last) && other.payload == piece.payload
        };
        if !pieces.iter().any(is_again) {
            pieces.push(piece);
        }
        let together = join(pieces, fragment)?;
        self.0.remove(&key);
        Some(together)
    }
}

/// Kind and addresses of a header before the fragment's: its other fields may change from piece to piece.
fn shown_outer(layer: &Layer) -> String {
    match layer {
        Layer::Header(header) => format!("{} {:?}", header.kind.name(), header.addresses),
        _ => String::new(),
    }
}

/// The outermost fragment, in a tunnel too; not one that an error quotes.
fn find_fragment(layers: &[Layer]) -> Option<Fragment> {
    let mut ip = 0;
    for (place, layer) in layers.iter().enumerate() {
        let Layer::Header(header) = layer else { return None };
        match header.kind {
            Kind::Ip if header.fields.contains_key("mf") || header.fields.contains_key("off") => {
                return Some(Fragment { place, said_by: place });
            }
            Kind::Fragment6 => return Some(Fragment { place: ip, said_by: place }),
            Kind::Ip | Kind::Ip6 => ip = place,
            Kind::Icmp | Kind::Icmp6 => return None,
            _ => {}
        }
    }
    None
}

fn payload(layers: &[Layer], fragment: &Fragment) -> Vec<u8> {
    // The transport checksum of a piece is said, or it covers the whole of it: it needs the addresses.
    let from_ip = build(&layers[fragment.place..]);
    let headers = &layers[fragment.place..=fragment.said_by];
    let bytes = |layer: &Layer| match layer {
        Layer::Header(header) => header.kind.bytes() + header.options.len(),
        _ => 0,
    };
    from_ip.get(headers.iter().map(bytes).sum()..).unwrap_or_default().to_vec()
}

/// The whole, if these pieces are all.
fn join(pieces: &mut [Piece], fragment: &Fragment) -> Option<Vec<Layer>> {
    pieces.sort_by_key(|piece| piece.offset);
    let mut bytes = Vec::new();
    for (place, piece) in pieces.iter().enumerate() {
        if piece.offset != bytes.len() || piece.is_last != (place + 1 == pieces.len()) {
            return None;
        }
        bytes.extend(&piece.payload);
    }
    let first = &pieces.first()?.layers;
    let said = match &first[fragment.said_by] {
        Layer::Header(header) => header,
        _ => return None,
    };
    let next = match first.get(fragment.said_by + 1) {
        Some(Layer::Header(next)) => next.kind.protocol(),
        _ => said.fields.get("proto").copied().unwrap_or(super::format::NO_PROTOCOL),
    };
    let mut headers: Vec<Header> = first[fragment.place..=fragment.said_by]
        .iter()
        .filter_map(|layer| match layer {
            Layer::Header(header) if header.kind != Kind::Fragment6 => Some(header.clone()),
            _ => None,
        })
        .collect();
    let last = headers.last_mut()?;
    for name in ["mf", "off", "len", "sum"] {
        last.fields.remove(name);
    }
    last.fields.insert("proto", next);
    let mut layers: Vec<Layer> = headers.into_iter().map(Layer::Header).collect();
    let masks: Vec<_> = layers.iter().chain(&first[fragment.said_by + 1..]).cloned().collect();
    layers.push(Layer::Data(bytes));
    let mut together = read(&build(&layers));
    for (layer, masked) in together.iter_mut().zip(&masks) {
        if let (Layer::Header(header), Layer::Header(masked)) = (layer, masked)
            && header.kind == masked.kind
        {
            for (name, number) in &masked.masked {
                header.fields.remove(name);
                header.masked.insert(name, *number);
            }
        }
    }
    let mut whole = first[..fragment.place].to_vec();
    whole.extend(together);
    Some(whole)
}

/// Which pieces were of one packet is no matter any more, nor is a checksum that could not be told of one: of the whole it
/// depends on a masked port.
fn settle_masks(layers: &mut [Layer]) {
    for layer in layers {
        if let Layer::Header(header) = layer {
            header.masked.remove("sum");
            header.masked.values_mut().for_each(|number| *number = 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(steps: &[&[&str]]) -> Vec<Vec<String>> {
        let mut pieces = Pieces::default();
        let step = |(step, packets): (usize, &&[&str])| {
            let packets: Vec<String> = packets.iter().map(|text| format!("10.0.0.11: {text}")).collect();
            let whole = pieces.put_together(step, &packets).unwrap();
            whole.iter().map(|text| text.replace("10.0.0.11: ", "")).collect()
        };
        steps.iter().enumerate().map(step).collect()
    }

    /// The pieces of a packet that is cut at these places.
    fn cut(ip: &str, rest: &str, places: &[usize], id: u32) -> Vec<String> {
        let ends = places.iter().skip(1).copied().chain([99_999]);
        let piece = |(from, to): (&usize, usize)| {
            let text = format!("{ip} frag={from}:{}:{id} / {rest}", to - from);
            Text(&read(&build(&parse(&text).unwrap()))).to_string()
        };
        places.iter().zip(ends).map(piece).collect()
    }

    #[test]
    fn pieces_are_put_together_wherever_they_were_cut() {
        for (ip, whole) in [
            ("ip 1.1.1.1 > 2.2.2.2 ttl=5", "ip 1.1.1.1 > 2.2.2.2 id=7 ttl=5"),
            ("ip6 ::1 > ::2", "ip6 ::1 > ::2"),
        ] {
            let udp = "udp 1 > 2 / data=100";
            let pieces = cut(ip, udp, &[0, 16, 64], 7);
            let [first, second, third] = &pieces[..] else { panic!("{pieces:?}") };
            let expected = format!("{whole} / {udp}");
            assert_eq!(together(&[&[first, second, third]]), [vec![expected.clone()]]);
            assert_eq!(
                together(&[&[third], &[first], &[first], &[second]]),
                [vec![], vec![], vec![], vec![expected]]
            );
            let overlap = &cut(ip, udp, &[0, 8], 7)[1];
            assert_eq!(together(&[&[first, overlap, second, third]]), [Vec::<String>::new()]);
        }
    }

    #[test]
    fn random_identifications_are_of_their_step() {
        let pieces = cut("ip 1.1.1.1 > 2.2.2.2", "udp 1 > 2 / data=100", &[0, 16], 7);
        let pieces: Vec<String> = pieces.iter().map(|piece| piece.replace("id=7", "id=*1")).collect();
        let whole = "ip 1.1.1.1 > 2.2.2.2 id=*1 / udp 1 > 2 / data=100";
        assert_eq!(together(&[&[&pieces[0], &pieces[1]]]), [vec![whole]]);
        assert_eq!(together(&[&[&pieces[0]], &[&pieces[1]]]), [Vec::<String>::new(), vec![]]);
    }

    #[test]
    fn pieces_in_a_tunnel_are_put_together() {
        let tunnel = "ip 10.0.0.1 > 10.0.0.11 id=*1 / udp *1 > 6080 sum=0x0000 / gue / ";
        let pieces = cut("ip 1.1.1.1 > 2.2.2.2", "udp 1 > 2 / data=100", &[0, 16], 7);
        let (first, second) = (format!("{tunnel}{}", pieces[0]), format!("{tunnel}{}", pieces[1]));
        let whole = format!("{tunnel}ip 1.1.1.1 > 2.2.2.2 id=7 / udp 1 > 2 / data=100");
        assert_eq!(together(&[&[&first], &[&second]]), [vec![], vec![whole.clone()]]);
        // A checksum that depends on the masked port is not told.
        let masked = [first, second].map(|piece| piece.replace("sum=0x0000", "sum=*1"));
        let untold = whole.replace(" sum=0x0000", "");
        assert_eq!(together(&[&[&masked[0], &masked[1]]]), [vec![untold]]);
        // And those of the tunnel itself, whose port is masked in the first.
        let outer = cut(
            "ip 10.0.0.1 > 10.0.0.11",
            "udp 9 > 6080 sum=0 / gue / ip 1.1.1.1 > 2.2.2.2 id=7 / udp 1 > 2 / data=100",
            &[0, 64],
            9,
        );
        let outer: Vec<String> =
            outer.iter().map(|piece| piece.replace("id=9", "id=*1").replace("udp 9", "udp *1")).collect();
        assert_eq!(together(&[&[&outer[0], &outer[1]]]), [vec![whole]]);
    }

    #[test]
    fn what_is_no_fragment_stays_as_it_is() {
        for text in [
            "ip 10.0.0.1 > 10.0.0.11 id=*2 / udp 1 > 2",
            "ip 10.0.0.1 > 10.0.0.11 / icmp 11/1 / ip 1.1.1.1 > 2.2.2.2 mf / udp 1 > 2",
        ] {
            assert_eq!(together(&[&[text]]), [vec![text]]);
        }
    }
}
