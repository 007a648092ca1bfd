//! The tasks of the control thread: the tick, the control socket, /metrics. They run until the caller's future is done.

use std::convert::Infallible;
use std::future::Future;
use std::io;

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use crate::control::{SharedControl, TICK};
use crate::http;
use crate::socket::{self, ControlSocket};

/// Runs the control thread until `stop` is done and returns its result. Clients that are connected then are closed.
/// All that must not end by itself is part of this one future: a defect there ends the director, and is not overlooked.
pub async fn run<T>(
    control: SharedControl,
    socket: &ControlSocket,
    metrics: Option<std::net::TcpListener>,
    stop: impl Future<Output = T>,
) -> io::Result<T> {
    let metrics = metrics.map(TcpListener::from_std).transpose()?;
    let scrapes = async {
        match metrics {
            Some(listener) => http::serve(control.clone(), listener).await,
            None => std::future::pending().await,
        }
    };
    let serving = async {
        tokio::select! {
            result = stop => Ok(result),
            failed = socket::serve(control.clone(), socket) => failed.map(|never| match never {}),
            never = scrapes => match never {},
            never = tick_for_ever(control.clone()) => match never {},
        }
    };
    LocalSet::new().run_until(serving).await
}

/// [`crate::control::Control::tick`] every millisecond. After a stall the missed ones are not made up for.
pub async fn tick_for_ever(control: SharedControl) -> Infallible {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        control.borrow_mut().tick();
    }
}
