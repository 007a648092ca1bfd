//! What the real ipvsadm said in the kernel's company (lab/differential/ipvsadm): NAME.cmds, of which the last line is
//! the one that counts, and NAME.out.

use std::path::PathBuf;

use crate::memory::Printed;

pub(crate) struct Capture {
    pub(crate) name: String,
    pub(crate) commands: Vec<String>,
    pub(crate) printed: Printed,
}

/// Every capture.
pub(crate) fn captures() -> Vec<Capture> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lab/differential/ipvsadm");
    let entries = std::fs::read_dir(&directory).expect("the captures are in the tree");
    let mut captures: Vec<Capture> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cmds"))
        // One that is not recorded yet is its recorder's.
        .filter(|path| path.with_extension("out").exists())
        .map(|path| {
            let commands = std::fs::read_to_string(&path).unwrap();
            let output = std::fs::read_to_string(path.with_extension("out")).unwrap();
            Capture {
                name: path.file_stem().unwrap().to_string_lossy().into_owned(),
                commands: commands.lines().map(str::to_owned).collect(),
                printed: read(&output),
            }
        })
        .collect();
    captures.sort_by(|one, other| one.name.cmp(&other.name));
    captures
}

fn read(output: &str) -> Printed {
    let (exit, rest) = output.split_once('\n').unwrap();
    let exit_code = exit.strip_prefix("exit ").unwrap().parse().unwrap();
    let (stdout, stderr) = rest.strip_prefix("--- stdout\n").unwrap().split_once("--- stderr\n").unwrap();
    Printed { exit_code, stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

/// Words as a shell takes them, without expansions.
pub(crate) fn words_of(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
