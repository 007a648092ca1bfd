//! The tasks of the control thread: the tick, the control socket, /metrics. They run until the caller's future is done.

use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use crate::control::{SharedControl, TICK};
use crate::socket::{self, ControlSocket};
use crate::http;

/// Runs the control thread until `stop` is done and returns its result. Clients that are connected then are closed.
pub async fn run<T>(
    control: SharedControl,
    socket: &ControlSocket,
    metrics: Option<std::net::TcpListener>,
    stop: impl Future<Output = T>,
) -> io::Result<T> {
    let metrics = metrics.map(TcpListener::from_std).transpose()?;
    let tasks = LocalSet::new();
    tasks.spawn_local(tick_for_ever(control.clone()));
    if let Some(listener) = metrics {
        tasks.spawn_local(http::serve(control.clone(), listener));
    }
    let serving = socket::serve(control, socket);
    tasks
        .run_until(async {
            tokio::select! {
                result = stop => Ok(result),
                failed = serving => failed.map(|never| match never {}),
            }
        })
        .await
}

/// [`crate::control::Control::tick`] every millisecond. After a stall the missed ones are not made up for.
pub async fn tick_for_ever(control: SharedControl) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        control.borrow_mut().tick();
    }
}
