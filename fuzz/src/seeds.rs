//! The packet catalogue as inputs.

use std::fs;
use std::path::Path;

use crate::fuzzing::record::{self, Record};
use crate::network::{View, port_mac};
use crate::notation::{self, Way};
use crate::table;

/// Writes an input for every case, of its first method, in each of its families.
pub(crate) fn write(folder: &Path) {
    let catalogue = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dataplane/tests/catalogue");
    for entry in fs::read_dir(catalogue).expect("the catalogue").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path()).expect("a table");
        for (number, case) in table::parse(&name, &text).expect("cases").iter().enumerate() {
            let methods = &case.setting.methods;
            for &is_ipv6 in &case.setting.families {
                let view = View::new(methods[number % methods.len()], is_ipv6);
                let records: Vec<Record> = case.steps.iter().filter_map(|step| record(step, &view)).collect();
                let family = if is_ipv6 { 6 } else { 4 };
                let file = folder.join(format!("{}-{family}", case.place.replace(['.', ':'], "-")));
                fs::write(file, record::encode(&records)).expect("room for an input");
            }
        }
    }
}

fn record(step: &table::Step, view: &View) -> Option<Record> {
    let view = View { port: step.port.unwrap_or(0), local_port: Some(1024), ..*view };
    let frame = notation::frame(&step.frame, &view, Way::In, None).ok()?;
    let own = (0..4).find(|port| frame.get(..6) == Some(&port_mac(*port)[..]));
    let port = step.port.or(own).unwrap_or(0);
    let mut record = Record::frame(port, frame);
    // As they are, wrong checksums too.
    record.set(0, 0, if step.wait_seconds > 0 { 13 } else { 0 });
    Some(record)
}
