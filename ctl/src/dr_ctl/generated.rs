//! `completions` and `man`: made of the definition in `cli.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::cli::Arguments;
use super::failure::Failure;
use super::print;

pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "dr-ctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

pub(super) fn man(folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        return print(&page(Arguments::command()));
    };
    let failure = |path: PathBuf| |source| Failure::Generated { path, source };
    fs::create_dir_all(folder).map_err(failure(folder.to_owned()))?;
    for (name, text) in pages() {
        let path = folder.join(name);
        fs::write(&path, text).map_err(failure(path))?;
    }
    Ok(())
}

/// File name and text of every page: dr-ctl's own and one a verb.
fn pages() -> Vec<(String, String)> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    // Hands the global options and its display name, dr-ctl-add-vip, to every verb.
    command.build();
    let verbs: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    let mut pages = vec![("dr-ctl.1".to_owned(), page(Arguments::command()))];
    pages.extend(verbs.into_iter().map(|verb| {
        let file_name = format!("dr-ctl-{}.1", verb.get_name());
        (file_name, page(verb.version(env!("CARGO_PKG_VERSION"))))
    }));
    pages
}

fn page(command: clap::Command) -> String {
    let mut text = Vec::new();
    Man::new(command)
        .source(concat!("dr-ctl ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)
        .expect("a Vec takes whatever is written");
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_every_verb_and_scheduler() {
        for shell in Shell::value_variants() {
            let script = completions(*shell);
            for word in Arguments::command().get_subcommands().map(clap::Command::get_name) {
                assert!(script.contains(word), "{shell}: {word}");
            }
            if *shell != Shell::Elvish && *shell != Shell::PowerShell {
                assert!(script.contains("wlc"), "{shell}");
            }
        }
    }

    #[test]
    fn every_verb_has_a_page_with_its_example_and_the_global_options() {
        let pages = pages();
        assert_eq!(pages.len(), Arguments::command().get_subcommands().count() + 1);
        for (name, text) in pages {
            assert!(text.contains("NAME") && text.contains("dr\\-ctl"), "{name}");
            assert!(text.contains("\\-\\-socket") && text.contains("\\-\\-json"), "{name}:\n{text}");
        }
    }

    #[test]
    fn the_main_page_lists_the_exit_codes() {
        let text = page(Arguments::command());
        assert!(text.contains("dr\\-director cannot be reached"), "{text}");
    }
}
