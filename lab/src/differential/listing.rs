//! What `ipvsadm -L` shows, reduced to what two directors must agree on: without the header, the expiry and the order of
//! connections.
//!
//! | row | from | line |
//! |---|---|---|
//! | service | `-Ln` | as it stands |
//! | RS | `-Ln` and `-Ln --persistent-conn` | `-> address forward weight active inactive persistent` |
//! | connection | `-Lcn --persistent-conn` | `protocol state source virtual destination [pe data]` |

use anyhow::{Context, Result, ensure};

/// Which rows are the scenario's: a director that runs several has those of all.
pub trait Filter: Fn(&str) -> bool {}
impl<F: Fn(&str) -> bool> Filter for F {}

/// Services and real servers of `-Ln`, each RS with its count of templates of `-Ln --persistent-conn`.
pub fn services(list: &str, persistent: &str, is_ours: impl Filter) -> Result<Vec<String>> {
    let (list, persistent) = (rows(list, 3)?, rows(persistent, 3)?);
    ensure!(list.len() == persistent.len(), "the listings differ in length:\n{list:#?}\n{persistent:#?}");
    let mut lines = Vec::new();
    let mut is_listed = false;
    for (row, with_templates) in list.iter().zip(&persistent) {
        if row.starts_with("->") {
            let templates = with_templates.split(' ').nth(3).context("no PersistConn")?;
            if is_listed {
                lines.push(format!("{row} {templates}"));
            }
        } else {
            is_listed = is_ours(row.split(' ').nth(1).context("no service")?);
            if is_listed {
                lines.push(row.clone());
            }
        }
    }
    Ok(lines)
}

/// Connections of `-Lcn --persistent-conn`, sorted by all but the source first. `is_ours` is asked for the virtual address.
pub fn connections(list: &str, is_ours: impl Filter) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for row in rows(list, 2)? {
        let mut words: Vec<&str> = row.split(' ').collect();
        ensure!(words.len() >= 6, "not a connection: `{row}`");
        words.remove(1);
        if is_ours(words[3]) {
            lines.push(words.join(" "));
        }
    }
    // By source last, so that those of one RS stand together.
    lines.sort_by_cached_key(|line| {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let source = words.remove(2);
        (words, source)
    });
    Ok(lines)
}

/// Counters of `-Ln --stats --exact`.
pub fn statistics(list: &str, is_ours: impl Filter) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut is_listed = false;
    for row in rows(list, 3)? {
        if !row.starts_with("->") {
            is_listed = is_ours(row.split(' ').nth(1).context("no service")?);
        }
        if is_listed {
            lines.push(row);
        }
    }
    Ok(lines)
}

/// Rows below `title_lines`, each run of spaces one.
fn rows(text: &str, title_lines: usize) -> Result<Vec<String>> {
    let mut lines = text.lines();
    for _ in 0..title_lines {
        lines.next().with_context(|| format!("no title: `{text}`"))?;
    }
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.10:80 wlc persistent 360
  -> 10.0.0.11:80                 Route   1      3          12        
UDP  192.0.2.254:9 rr
  -> 10.0.0.26:9                  Route   1      0          1         
";
    const PERSISTENT: &str = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn 
  -> RemoteAddress:Port
TCP  192.0.2.10:80 wlc persistent 360
  -> 10.0.0.11:80                 1         5           3          12        
UDP  192.0.2.254:9 rr
  -> 10.0.0.26:9                  1         0           0          1         
";

    #[test]
    fn services_have_their_templates_and_not_the_others() {
        let lines = services(LIST, PERSISTENT, |service: &str| service.starts_with("192.0.2.10:")).unwrap();
        assert_eq!(lines, ["TCP 192.0.2.10:80 wlc persistent 360", "-> 10.0.0.11:80 Route 1 3 12 5"]);
        assert!(services(LIST, "", |_: &str| true).is_err());
    }

    #[test]
    fn connections_are_sorted_and_lose_their_expiry() {
        let list = "IPVS connection entries
pro expire state       source             virtual            destination
UDP 04:58  UDP         198.51.100.7:40001 192.0.2.10:53      10.0.0.12:53
TCP 00:59  SYN_RECV    198.51.100.7:40031 192.0.2.10:80      10.0.0.12:80
IP  04:59  NONE        198.51.100.7:0     0.0.0.7:0          10.0.0.11:0
";
        let lines = connections(list, |service: &str| service != "192.0.2.10:53").unwrap();
        assert_eq!(
            lines,
            [
                "IP NONE 198.51.100.7:0 0.0.0.7:0 10.0.0.11:0",
                "TCP SYN_RECV 198.51.100.7:40031 192.0.2.10:80 10.0.0.12:80"
            ]
        );
    }
}
