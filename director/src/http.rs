//! The HTTP server of /metrics: one path, one method, one request a connection, everything bounded.
//!
//! Runs on the control thread; text is made on a thread of its own ([`crate::metrics`]).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::control::SharedControl;
use crate::metrics::Scrape;

/// Connections at once. Prometheus opens one; when there are more, the oldest is closed, so that clients which say nothing
/// keep nobody out.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is done by then, or its client reads too slowly.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request, in bytes; hyper's least is 8192.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after accept failed, so that a lack of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Listens for scrapes.
pub fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers scrapes for ever.
pub async fn serve(control: SharedControl, listener: TcpListener) -> Infallible {
    let mut connections: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() == CONNECTIONS_MAX
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                let control = control.clone();
                let connection = tokio::task::spawn_local(async move {
                    // What goes wrong here is the client's affair.
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serve_connection(control, stream)).await;
                });
                connections.push_back(connection.abort_handle());
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve_connection(control: SharedControl, stream: TcpStream) -> hyper::Result<()> {
    let service = service_fn(move |request| answer(control.clone(), request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    control: SharedControl,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(text(StatusCode::NOT_FOUND, "only /metrics is here\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let scrape = Scrape::take(&control.borrow());
    let made = tokio::task::spawn_blocking(move || scrape.to_text()).await;
    Ok(match made {
        Ok(Ok(body)) => {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            response.headers_mut().insert(CONTENT_TYPE, METRICS);
            response
        }
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    })
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
