//! Hugepages, taken from the kernel for as long as the bench runs, and the temporary files.
//!
//! Both are given back by a process of its own, which waits for this one's end of a pipe to close: it does so when
//! [`Borrowed`] is dropped, at Ctrl-C, and even when this process is killed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::sizing::HUGEPAGE_MIB;

const SCRIPT: &str = include_str!("give-back.sh");
/// The kernel's pool of 2 MiB pages.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Asked of the kernel so often, with a compaction of memory between.
const ATTEMPTS: u32 = 3;

/// What is given back when this is dropped, or when this process ends.
pub(crate) struct Borrowed {
    giver: Child,
    directory: PathBuf,
}

impl Borrowed {
    /// A temporary directory, and so many free hugepages (none for 0).
    pub(crate) fn new(hugepages: u64) -> Result<Borrowed> {
        Borrowed::from_pool(Path::new(POOL), hugepages)
    }

    fn from_pool(pool: &Path, hugepages: u64) -> Result<Borrowed> {
        let directory = TempDir::with_prefix("dr-bench-").context("no temporary directory")?;
        let mut giver = Command::new("sh");
        giver.args(["-c", SCRIPT, "bench-give-back"]).arg(directory.path());
        let mut wanted = None;
        if hugepages > 0 {
            let (total, free) = (Count::Total.read(pool)?, Count::Free.read(pool)?);
            let added = hugepages.saturating_sub(free);
            wanted = Some(total + added).filter(|_| added > 0);
            // Surplus pages are not the pool's: they go when who has them is done with them, and must not come back.
            let lasting = total.saturating_sub(Count::Surplus.read(pool)?);
            let added = wanted.map_or(0, |wanted| wanted - lasting);
            giver.arg(pool).args([lasting, added].map(|number| number.to_string()));
        }
        // A group of its own: Ctrl-C in the terminal must end this process, not it.
        giver.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let borrowed =
            Borrowed { giver: giver.spawn().context("cannot start sh")?, directory: directory.keep() };
        if let Some(wanted) = wanted {
            grow(wanted, hugepages, || resize(pool, wanted))?;
        }
        Ok(borrowed)
    }

    /// The temporary directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        drop(self.giver.stdin.take());
        if !self.giver.wait().is_ok_and(|status| status.success()) {
            eprintln!("bench: could not give hugepages back or remove {}", self.directory.display());
        }
    }
}

enum Count {
    /// Surplus ones included; written, without them.
    Total,
    Free,
    /// In use by somebody since the pool was made smaller.
    Surplus,
}

impl Count {
    fn file(&self, pool: &Path) -> PathBuf {
        pool.join(match self {
            Count::Total => "nr_hugepages",
            Count::Free => "free_hugepages",
            Count::Surplus => "surplus_hugepages",
        })
    }

    fn read(&self, pool: &Path) -> Result<u64> {
        let file = self.file(pool);
        let text = fs::read_to_string(&file).with_context(|| {
            format!("{}: does this kernel have 2 MiB hugepages? --no-hugepages runs without", file.display())
        })?;
        text.trim().parse().with_context(|| format!("{}: `{text}`", file.display()))
    }
}

/// Makes the kernel's pool `wanted` pages large, of which this program needs `needed`. `resize` asks the kernel once and
/// returns what the pool has then.
fn grow(wanted: u64, needed: u64, mut resize: impl FnMut() -> Result<u64>) -> Result<()> {
    let mut has = resize()?;
    for _ in 1..ATTEMPTS {
        if has >= wanted {
            return Ok(());
        }
        // It may fail where the kernel has no compaction: then the next attempt is the last hope anyway.
        let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        has = resize()?;
    }
    ensure!(
        has >= wanted,
        "hugepages: {needed} of 2 MiB ({} MiB) are needed and the kernel gave {} too few: memory is used or in pieces. \
         End what uses it, reserve them at boot (kernel parameter hugepages={needed}), measure fewer flows (--flows), \
         or use none (--no-hugepages)",
        needed * HUGEPAGE_MIB,
        wanted - has
    );
    Ok(())
}

/// Asks the kernel for a pool of `wanted` pages and returns how many it has then.
fn resize(pool: &Path, wanted: u64) -> Result<u64> {
    let file = Count::Total.file(pool);
    fs::write(&file, wanted.to_string()).with_context(|| {
        format!("{}: cannot be written; run as root, or with --no-hugepages", file.display())
    })?;
    Count::Total.read(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel's pool, in files.
    fn pool(total: &str, free: &str) -> TempDir {
        let pool = tempfile::tempdir().unwrap();
        fs::write(pool.path().join("nr_hugepages"), total).unwrap();
        fs::write(pool.path().join("free_hugepages"), free).unwrap();
        fs::write(pool.path().join("surplus_hugepages"), "0\n").unwrap();
        pool
    }

    fn total(pool: &TempDir) -> u64 {
        Count::Total.read(pool.path()).unwrap()
    }

    #[test]
    fn pages_are_added_to_the_free_ones_and_given_back_with_the_directory() {
        let pool = pool("10\n", "4\n");
        let borrowed = Borrowed::from_pool(pool.path(), 100).unwrap();
        let directory = borrowed.directory().to_owned();
        assert_eq!((total(&pool), directory.is_dir()), (106, true));
        drop(borrowed);
        assert_eq!((total(&pool), directory.exists()), (10, false));
    }

    #[test]
    fn enough_free_pages_are_left_as_they_are() {
        let pool = pool("10\n", "4\n");
        drop(Borrowed::from_pool(pool.path(), 4).unwrap());
        assert_eq!(total(&pool), 10);
    }

    #[test]
    fn pages_that_somebody_else_added_or_took_meanwhile_are_respected() {
        for (meanwhile, left) in [("130\n", 34), ("50\n", 10), ("3\n", 3)] {
            let pool = pool("10\n", "4\n");
            let borrowed = Borrowed::from_pool(pool.path(), 100).unwrap();
            fs::write(pool.path().join("nr_hugepages"), meanwhile).unwrap();
            drop(borrowed);
            assert_eq!(total(&pool), left, "{meanwhile}");
        }
    }

    #[test]
    fn surplus_pages_of_somebody_else_are_not_made_to_stay() {
        let pool = pool("3\n", "0\n");
        let surplus = pool.path().join("surplus_hugepages");
        fs::write(&surplus, "2\n").unwrap();
        let borrowed = Borrowed::from_pool(pool.path(), 100).unwrap();
        assert_eq!(total(&pool), 103);
        // Their owner is gone; or, by what the kernel counts, they are in the pool now that it is large.
        fs::write(&surplus, "0\n").unwrap();
        drop(borrowed);
        assert_eq!(total(&pool), 1);
    }

    #[test]
    fn kernel_without_hugepages_is_an_error_that_says_what_to_do() {
        let nothing = tempfile::tempdir().unwrap();
        let error = Borrowed::from_pool(nothing.path(), 1).err().map(|error| format!("{error:#}"));
        assert!(error.as_ref().is_some_and(|error| error.contains("--no-hugepages")), "{error:?}");
    }

    #[test]
    fn kernel_that_gives_too_few_pages_is_asked_again_and_then_an_error_with_the_numbers() {
        let mut gives = [50, 80, 106].into_iter();
        grow(106, 100, || Ok(gives.next().unwrap())).unwrap();
        let error = grow(106, 100, || Ok(50)).unwrap_err().to_string();
        assert!(error.contains("100 of 2 MiB (200 MiB)") && error.contains("gave 56 too few"), "{error}");
    }
}
