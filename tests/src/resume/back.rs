//! Thousands of sessions that lose their connections at once and all come back, against as many that connect.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use lib_chan::{
    Channel, ConnectionState, ExitReason, Limits, Opaque,
    channel::{Connected, OpenError, OpenRequest, open, open_resumable},
    handshake::Authenticated,
    login::Credential,
    payload::Codec,
    tls::exporter,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_rustls::client::TlsStream;

use super::{
    server::{Program, WINDOW},
    spread,
};
use crate::{client_key, cuttable::Cuttable, login};

/// Logins at a time, of those that connect and of those that come back.
const AT_A_TIME: usize = 32;

/// Prints the memory of a detached session, and the rate at which so many come back as a part of the rate at which as many
/// connect, in turn.
///
/// # Errors
/// When there is no server, or a session ends.
pub async fn come_back(sessions: usize, rounds: usize) -> io::Result<()> {
    let _ = chan_server::raise_descriptor_limit();
    let mut server = Program::start()?;
    let url: Arc<str> = server.url.as_str().into();
    // Once for nothing, but few: memory that the server kept of many would count as there already.
    plain(&mut server, &url, AT_A_TIME).await?;
    let empty = server.sample()?.rss_kib;
    let before = Instant::now();
    let detached = Detached::open(&url, sessions).await?;
    let opened = sessions as f64 / before.elapsed().as_secs_f64();
    let attached = server.sample()?.rss_kib;
    detached.cut();
    server.wait_for((sessions, sessions)).await?;
    let away = server.sample()?.rss_kib;
    let each = |kib: u64| 1024.0 * kib.saturating_sub(empty) as f64 / sessions as f64;
    print(&format!(
        "{sessions} sessions, {AT_A_TIME} logins at a time; opened with resume: {opened:.0} a second"
    ));
    print(&format!(
        "memory of the server for each: attached {:.0} bytes, detached {:.0}",
        each(attached),
        each(away)
    ));
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..rounds {
        if round > 0 {
            detached.cut();
            server.wait_for((sessions, sessions)).await?;
        }
        let back = detached.come_back().await?;
        // The plain ones beside them would need as many descriptors again.
        let connects = plain(&mut server, &url, sessions.min(5000)).await?;
        rates[0].push(connects);
        rates[1].push(back);
        ratios.push(back / connects);
    }
    let ([connects, back], (ratio, least, most)) = (rates.map(|rates| spread(&rates).0), spread(&ratios));
    print(&format!(
        "plain connects {connects:.0} a second, come back {back:.0}; ratio: median {ratio:.3}, least {least:.3}, greatest {most:.3}"
    ));
    Ok(())
}

type Stream = TlsStream<TcpStream>;

/// Makes a stream that is cut at the next change of `cuts`.
fn cuttable(stream: Stream, mut cuts: watch::Receiver<()>) -> Cuttable<Stream> {
    cuts.mark_unchanged();
    let mut cut = Box::pin(async move {
        if cuts.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    Cuttable::new(stream, move |cx| cut.as_mut().poll(cx))
}

/// Logs in, from an address of this session's own.
async fn dial(url: &str, n: usize) -> io::Result<(Stream, Authenticated)> {
    let [_, _, third, fourth] = u32::try_from(n).unwrap_or(0).to_be_bytes();
    let from = Ipv4Addr::new(127, 1, third, fourth.max(1));
    let key = client_key();
    login(url, Credential::Key(&key), from).await.map_err(io::Error::other)
}

/// Opens so many sessions without resume, and closes them. Returns the rate of the opening.
async fn plain(server: &mut Program, url: &Arc<str>, sessions: usize) -> io::Result<f64> {
    let before = server.count()?.0;
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut opening = JoinSet::new();
    let began = Instant::now();
    for n in 0..sessions {
        let (url, places) = (Arc::clone(url), Arc::clone(&places));
        opening.spawn(async move {
            let _place = places.acquire().await.map_err(io::Error::other)?;
            let (stream, client) = dial(&url, n).await?;
            let chan: Result<Channel<Opaque>, OpenError> =
                open(stream, &client, &Limits::default(), Codec::Raw, b"", false).await;
            chan.map_err(io::Error::other)
        });
    }
    let mut open = Vec::new();
    while let Some(chan) = opening.join_next().await {
        open.push(chan.map_err(io::Error::other)??);
    }
    let rate = sessions as f64 / began.elapsed().as_secs_f64();
    drop(open);
    loop {
        if server.count()?.0 <= before {
            return Ok(rate);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Sessions with resume, and what their clients need to come back.
struct Detached {
    channels: Vec<Channel<Opaque>>,
    /// Cuts all connections when it changes.
    cuts: watch::Sender<()>,
    places: Arc<Semaphore>,
}

impl Detached {
    async fn open(url: &Arc<str>, sessions: usize) -> io::Result<Self> {
        let cuts = watch::Sender::new(());
        let opens = Arc::new(Semaphore::new(AT_A_TIME));
        let places = Arc::new(Semaphore::new(0));
        let mut opening = JoinSet::new();
        for n in 0..sessions {
            let (url, opens, places) = (Arc::clone(url), Arc::clone(&opens), Arc::clone(&places));
            let cuts = cuts.subscribe();
            opening.spawn(async move {
                let _place = opens.acquire().await.map_err(io::Error::other)?;
                let (stream, client) = dial(&url, n).await?;
                let stream = cuttable(stream, cuts.clone());
                let connector = Box::new(move |_| {
                    let (url, places, cuts) = (Arc::clone(&url), Arc::clone(&places), cuts.clone());
                    Box::pin(async move {
                        let lost = ExitReason::NoConnection;
                        places.acquire().await.map_err(|_| lost.clone())?.forget();
                        let (stream, _) = dial(&url, n).await.map_err(|_| lost.clone())?;
                        let exporter = exporter(stream.get_ref().1).map_err(|_| lost)?;
                        Ok(Connected { stream: cuttable(stream, cuts), exporter })
                    }) as _
                });
                let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Raw, b"") };
                open_resumable(stream, &client, &Limits::default(), &request, false, connector)
                    .await
                    .map_err(io::Error::other)
            });
        }
        let mut channels = Vec::new();
        while let Some(chan) = opening.join_next().await {
            let chan: Channel<Opaque> = chan.map_err(io::Error::other)??;
            chan.remote().flush().await.map_err(|reason| io::Error::other(reason.to_string()))?;
            channels.push(chan);
        }
        Ok(Self { channels, cuts, places })
    }

    /// Cuts all connections.
    fn cut(&self) {
        self.cuts.send_replace(());
    }

    /// Lets all dial, and waits until all have come back. Returns the rate.
    async fn come_back(&self) -> io::Result<f64> {
        let began = Instant::now();
        let mut waiting = JoinSet::new();
        for chan in &self.channels {
            let (remote, places) = (chan.remote(), Arc::clone(&self.places));
            waiting.spawn(async move {
                let mut state = remote.connection();
                while !matches!(state, ConnectionState::Attached { .. }) {
                    match remote.connection_changed(state).await {
                        Some(changed) => state = changed,
                        None => return Err(io::Error::other(remote.ended().await.to_string())),
                    }
                }
                places.add_permits(1);
                Ok(())
            });
        }
        self.places.add_permits(AT_A_TIME);
        while let Some(back) = waiting.join_next().await {
            back.map_err(io::Error::other)??;
        }
        let rate = self.channels.len() as f64 / began.elapsed().as_secs_f64();
        self.places.forget_permits(usize::MAX);
        Ok(rate)
    }
}

#[expect(clippy::print_stdout, reason = "it is what the program is run for")]
fn print(text: &str) {
    println!("{text}");
}
