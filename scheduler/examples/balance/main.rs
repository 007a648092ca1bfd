//! How each scheduler spreads a million connections over a hundred real servers, against its ideal. One thread, the
//! same requests and the same result every time.
//!
//! `cargo run --release -p scheduler --example balance` prints the tables; with `-- --publish` it writes them between
//! the markers of docs/SCHEDULERS.md and draws docs/balance.svg.
//!
//! | file | what it is |
//! |---|---|
//! | `measure.rs` | the traffic, what each RS gets of it, and what it ideally would |
//! | `removal.rs` | whom it moves when one RS goes |
//! | `plot.rs` | docs/balance.svg |
//! | `publish.rs` | the tables, and docs/SCHEDULERS.md |

mod measure;
mod plot;
mod publish;
mod removal;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_published = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--publish"] => true,
        _ => {
            eprintln!("balance: {arguments:?} is not understood; it takes nothing or --publish");
            return ExitCode::from(2);
        }
    };
    let page = publish::Page::measured();
    print!("{}", page.tables());
    if is_published && let Err(error) = page.write() {
        eprintln!("balance: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
