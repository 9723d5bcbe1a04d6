//! Answers a monitoring system, in the text format of OpenMetrics, and health checks.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::descriptors::max_descriptors;
use crate::gate::locked;
use crate::metrics::Labels;
use crate::shared::{Core, Phase};

/// The head of a request, at most.
const MAX_HEAD_LEN: usize = 8 * 1024;
/// The time that a request and its answer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests at once. A further one takes the place of the oldest, so that silent connections keep nobody out.
const MAX_REQUESTS: usize = 16;

/// Returns all numbers of this moment.
pub(crate) fn text(core: &Core) -> String {
    let mut registry = Registry::with_prefix("chan");
    let sessions = Family::<Labels, Gauge>::default();
    let policy = core.policy();
    let in_flight = Family::<Labels, Gauge>::default();
    let mailbox_messages = Family::<Labels, Gauge>::default();
    let mailbox_bytes = Family::<Labels, Gauge>::default();
    let unsent = Family::<Labels, Gauge>::default();
    for service in policy.service_names() {
        for family in [&sessions, &in_flight, &mailbox_messages, &mailbox_bytes, &unsent] {
            family.get_or_create(&vec![("service", service.to_owned())]).set(0);
        }
    }
    let providers = Family::<Labels, Gauge>::default();
    for (name, count) in policy.provided() {
        let labels = vec![("provides", name.to_owned())];
        providers.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let seats: Vec<_> = locked(&core.live).seats().cloned().collect();
    let detached = seats.iter().filter(|seat| seat.is_detached()).count();
    for seat in seats {
        let (stats, labels) = (seat.stats(), vec![("service", seat.service.to_string())]);
        seat.count_use(core.audit.metrics(), &stats);
        for (family, value) in [
            (&sessions, 1),
            (&in_flight, stats.calls_in_flight as u64),
            (&mailbox_messages, stats.mailbox_len),
            (&mailbox_bytes, stats.mailbox_bytes),
            (&unsent, stats.unsent_bytes),
        ] {
            family.get_or_create(&labels).inc_by(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    for (name, help, family) in [
        ("sessions", "Clients that are logged in", sessions),
        ("calls_in_flight", "Calls of clients that are not answered", in_flight),
        ("mailbox_messages", "Messages that services have not taken", mailbox_messages),
        ("mailbox_bytes", "Bytes of messages of clients that no process has taken", mailbox_bytes),
        ("unsent_bytes", "Bytes that wait to be sent to clients", unsent),
        ("providers", "Clients that provide the service of a name", providers),
    ] {
        registry.register(name, help, family);
    }
    let mut gauge = |name, help, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("sessions_detached", "Sessions that wait for their client to come back", detached as u64);
    let (logins, under_load) = {
        let gate = locked(&core.gate);
        (gate.waiting(), gate.is_under_load(Instant::now()))
    };
    gauge("logins_waiting", "Connections that have not logged in", logins as u64);
    gauge("gate_under_load", "1 while sources are turned away for their failures", under_load.into());
    gauge("max_sessions", "The bound on sessions", policy.limits.max_sessions as u64);
    gauge("max_logins", "The bound on connections that have not logged in", policy.limits.max_logins as u64);
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge("open_descriptors", "Descriptors in use", open.count() as u64);
    }
    if let Some(most) = max_descriptors() {
        gauge("max_descriptors", "Descriptors that the process may use", most);
    }
    core.audit.metrics().register(&mut registry);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// Answers requests for ever: `/metrics`, `/livez` and `/readyz`.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) {
    let mut requests = VecDeque::<AbortHandle>::with_capacity(MAX_REQUESTS);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        requests.retain(|request| !request.is_finished());
        if requests.len() == MAX_REQUESTS
            && let Some(oldest) = requests.pop_front()
        {
            oldest.abort();
        }
        let core = Arc::clone(&core);
        let request = tokio::spawn(async move {
            // A client that has gone needs no answer.
            let _ = timeout(REQUEST_TIMEOUT, answer(&core, stream)).await;
        });
        requests.push_back(request.abort_handle());
    }
}

/// Binds the address.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn answer(core: &Core, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let path = loop {
        match path_of(&head) {
            Ok(Some(path)) => break path,
            Ok(None) if head.len() < MAX_HEAD_LEN && stream.read_buf(&mut head).await? > 0 => {}
            Ok(None) | Err(_) => {
                return reply(&mut stream, "400 Bad Request", "text/plain", "no request\n").await;
            }
        }
    };
    let (status, text) = match &*path {
        "/metrics" => {
            const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            return reply(&mut stream, "200 OK", TYPE, &text(core)).await;
        }
        "/livez" => ("200 OK", "ok\n"),
        "/readyz" => match *core.phase.borrow() {
            Phase::Serving => ("200 OK", "ok\n"),
            _ => ("503 Service Unavailable", "the server is going away\n"),
        },
        _ => ("404 Not Found", "known are: /metrics, /livez, /readyz\n"),
    };
    reply(&mut stream, status, "text/plain", text).await
}

/// The path of a whole request, or `None` if there is more of it to come.
fn path_of(head: &[u8]) -> Result<Option<String>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(head)?.is_partial() {
        return Ok(None);
    }
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    Ok(Some(if request.method == Some("GET") { path.to_owned() } else { String::new() }))
}

async fn reply(stream: &mut TcpStream, status: &str, kind: &str, text: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_in_parts() {
        let whole = b"GET /livez?x HTTP/1.1\r\nHost: a\r\n\r\n";
        for len in 0..whole.len() {
            assert_eq!(path_of(&whole[..len]).unwrap(), None, "{len}");
        }
        assert_eq!(path_of(whole).unwrap().as_deref(), Some("/livez"));
        assert_eq!(path_of(b"POST /livez HTTP/1.1\r\n\r\n").unwrap().as_deref(), Some(""));
        assert!(path_of(b"\x16\x03\x01\x02\x00").is_err());
    }
}
