//! A command from its arrival to its answer: a change waits until every worker runs it, a query is answered at once, a
//! listing of connections is read on another thread.
//!
//! Control thread only. The state is never borrowed across a wait, so commands overlap in nothing but their waits, and a
//! later generation implies the earlier.

use std::time::Duration;

use ctl::config::Config;
use ctl::protocol::{
    Changed, Command, Connections, ErrorCode, ErrorReply, Neighbours, Response, Show, Stats, Status, VERSION,
};

use crate::connections;
use crate::control::{Control, SharedControl, TICK};

/// A change that the workers have not taken by then is answered as late. A worker looks once a round.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a command.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Of every change.
    Changed(Changed),
    /// Of `show`.
    Show(Show),
    /// Of `stats`.
    Stats(Stats),
    /// Of `connections`.
    Connections(Connections),
    /// Of `neighbours`.
    Neighbours(Neighbours),
    /// Of `status`.
    Status(Status),
    /// Of `config`.
    Config(Config),
}

/// A command executed.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The generation that every worker runs.
    pub generation: u64,
    /// The result.
    pub answer: Answer,
}

impl Executed {
    /// The line of the protocol ([`Response::to_line`]), written without a tree of it in memory: a listing's would take
    /// several times the text.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line =
            format!("{{\"version\":{VERSION},\"generation\":{},\"result\":", self.generation).into_bytes();
        let written = match &self.answer {
            Answer::Changed(result) => serde_json::to_writer(&mut line, result),
            Answer::Show(result) => serde_json::to_writer(&mut line, result),
            Answer::Stats(result) => serde_json::to_writer(&mut line, result),
            Answer::Connections(result) => serde_json::to_writer(&mut line, result),
            Answer::Neighbours(result) => serde_json::to_writer(&mut line, result),
            Answer::Status(result) => serde_json::to_writer(&mut line, result),
            Answer::Config(result) => serde_json::to_writer(&mut line, result),
        };
        if let Err(error) = written {
            let message = format!("the result cannot be written as JSON: {error}");
            return Response::error(ErrorReply::new(ErrorCode::Internal, message)).to_line();
        }
        line.extend_from_slice(b"}\n");
        line
    }

    /// What was changed, in words.
    pub fn changes(&self) -> &[String] {
        match &self.answer {
            Answer::Changed(changed) => &changed.changes,
            _ => &[],
        }
    }

    /// Rows in the result, roughly: how long it takes to write.
    pub fn rows(&self) -> usize {
        match &self.answer {
            Answer::Changed(result) => result.changes.len(),
            Answer::Show(result) => {
                result.services.iter().map(|service| 1 + service.real_servers.len()).sum()
            }
            Answer::Stats(result) => {
                result.services.iter().map(|service| 1 + service.real_servers.len()).sum()
            }
            Answer::Connections(result) => result.connections.len(),
            Answer::Neighbours(result) => result.neighbours.len(),
            Answer::Status(_) => 1,
            Answer::Config(result) => {
                result.services.iter().map(|service| 1 + service.real_servers.len()).sum()
            }
        }
    }
}

impl Control {
    fn query(&self, command: &Command) -> Result<Answer, ErrorReply> {
        Ok(match command {
            Command::Show(filter) => Answer::Show(self.show(filter)?),
            Command::Stats(filter) => Answer::Stats(self.stats(filter)?),
            Command::Neighbours => Answer::Neighbours(self.neighbours_view()),
            Command::Status => Answer::Status(self.status()),
            Command::Config => Answer::Config(self.running_config()),
            _ => {
                return Err(ErrorReply::new(
                    ErrorCode::Internal,
                    format!("`{}` is no query", command.verb()),
                ));
            }
        })
    }

    /// Which worker runs what, for an error.
    fn describe_lag(&self, generation: u64) -> ErrorReply {
        let late = self.publisher.running().enumerate().filter(|(_, running)| *running < generation);
        let late: Vec<_> = late
            .map(|(worker, running)| format!("worker {worker} still runs generation {running}"))
            .collect();
        let message = format!(
            "the change is generation {generation} and not in force everywhere after {} s: {}",
            APPLY_TIMEOUT.as_secs(),
            late.join(", ")
        );
        ErrorReply::new(ErrorCode::Timeout, message).with_help(
            "the change stays queued and takes effect when the worker looks again; `dr-ctl stats` shows each \
             worker's generation, and a worker that makes no progress needs a restart of dr-director",
        )
    }
}

/// Executes a command; a change is answered when every worker runs it.
pub async fn execute(control: &SharedControl, command: &Command) -> Result<Executed, ErrorReply> {
    if let Command::Connections(query) = command {
        let connections = connections::list(control, query).await?;
        let generation = control.borrow().oldest_running();
        return Ok(Executed { generation, answer: Answer::Connections(connections) });
    }
    // Its own statement: the borrow must have ended before the wait.
    let published = control.borrow_mut().change(command)?;
    if let Some(published) = published {
        // A change of nothing waits as well: the last one may still be on its way.
        wait_until_running(control, published.generation).await?;
        let answer = Answer::Changed(published.changed);
        return Ok(Executed { generation: published.generation, answer });
    }
    let control = control.borrow();
    Ok(Executed { generation: control.oldest_running(), answer: control.query(command)? })
}

/// Workers take a snapshot within a round, microseconds, unless the system has taken their CPU away: so first ask
/// again at once, then leave the CPU for longer and longer.
async fn wait_until_running(control: &SharedControl, generation: u64) -> Result<(), ErrorReply> {
    const AT_ONCE: u32 = 32;
    const LONGEST_PAUSE: Duration = Duration::from_millis(8);
    let deadline = tokio::time::Instant::now() + APPLY_TIMEOUT;
    let mut pause = TICK;
    let mut asked = 0;
    while !control.borrow().publisher.runs_everywhere(generation) {
        if tokio::time::Instant::now() >= deadline {
            return Err(control.borrow().describe_lag(generation));
        }
        if asked < AT_ONCE {
            asked += 1;
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    Ok(())
}
