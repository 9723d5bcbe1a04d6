//! Many sessions over a network that cuts their connections: no message may be lost, doubled or out of order.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chan_client::connect;
use lib_chan::{Channel, ConnectionState, Message, Opaque, payload::Codec};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Cuts,
    server::{BACK, Program, WINDOW, message, number},
};
use crate::{
    client_key,
    differential::random::Random,
    port_of,
    soak::{
        net::{Fate, Net},
        sample::{Sample, Trend},
    },
};

/// So much of a run is warm-up, and not judged.
const WARM_UP: f64 = 0.25;
/// The straight line through the rest may gain no more than this part of the mean.
const GROWTH: f64 = 0.05;
/// Long enough for a silent connection to be noticed, and for the last messages.
const SETTLES: Duration = Duration::from_secs(120);
/// Messages that are sent and have not come back, of one session.
const MAX_AHEAD: u64 = 64;

/// What all sessions counted.
#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    sent: AtomicU64,
    back: AtomicU64,
    calls: AtomicU64,
    resumed: AtomicU64,
}

/// Runs the campaign. Prints what it saw, and returns whether everything held.
///
/// # Errors
/// When the server cannot be started or asked.
pub async fn cuts(options: Cuts) -> io::Result<bool> {
    let server = Program::start()?;
    let net = Net::before(port_of(&server.url)).await?;
    let url = server.url.replacen(&format!(":{}/", port_of(&server.url)), &format!(":{}/", net.port()), 1);
    let counts = Arc::new(Counts::default());
    let mut sessions = JoinSet::new();
    let each = options.messages.div_ceil(options.sessions as u64);
    let pause = options.duration.div_f64(each as f64);
    for n in 0..options.sessions {
        let (url, counts) = (url.clone(), Arc::clone(&counts));
        sessions.spawn(async move {
            session(&url, &counts, each, pause, n as u64).await.map_err(|why| format!("session {n}: {why}"))
        });
    }
    // A session that is cut before it is open has nothing to go back to.
    while counts.opened.load(Ordering::Relaxed) < options.sessions as u64 {
        sleep(Duration::from_millis(10)).await;
    }
    let (began, mut random) = (Instant::now(), Random::new(options.seed));
    let mut cuts = interval(Duration::from_secs(1) / options.cuts.max(1));
    cuts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut wrong, mut made, mut memory, mut second) = (Vec::new(), 0_u64, Vec::new(), 0);
    loop {
        tokio::select! {
            _ = cuts.tick() => {
                if began.elapsed() < options.duration {
                    strike(&net, &mut random);
                    made += 1;
                }
                if began.elapsed().as_secs() > second {
                    second = began.elapsed().as_secs();
                    memory.push((second as f64, [server.sample()?, Sample::of(std::process::id())?]));
                    if second.is_multiple_of(60) {
                        progress(second, made, &counts);
                    }
                }
            }
            ended = sessions.join_next() => match ended {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(why))) => wrong.push(why),
                Some(Err(panic)) => wrong.push(panic.to_string()),
                None => break,
            }
        }
        if began.elapsed() > options.duration + SETTLES {
            wrong.push(format!("{} sessions did not finish", sessions.len()));
            break;
        }
    }
    wrong.extend(report(options, began.elapsed(), made, &memory, &counts));
    for line in &wrong {
        print(&format!("WRONG: {line}"));
    }
    Ok(wrong.is_empty())
}

fn strike(net: &Net, random: &mut Random) {
    match random.below(10) {
        0..=3 => net.strike(random, Fate::Ends),
        4..=7 => net.strike(random, Fate::Resets),
        8 => net.strike(random, Fate::Swallows),
        _ => net.hold(random, Duration::from_millis(500)),
    }
}

/// One session: sends numbered messages and calls, and checks that each comes back once and in order.
async fn session(url: &str, counts: &Counts, each: u64, pause: Duration, seed: u64) -> Result<(), String> {
    let ask = connect(url).key(client_key()).codec(Codec::Raw).encoded_args(Vec::new()).resume(WINDOW);
    let mut chan: Channel<Opaque> = ask.open().await.map_err(|error| error.to_string())?;
    let remote = chan.remote();
    remote.flush().await.map_err(|reason| reason.to_string())?;
    counts.opened.fetch_add(1, Ordering::Relaxed);
    let watched = remote.clone();
    let mut seen = remote.connection();
    let mut random = Random::new(seed);
    let (mut sent, mut back, mut due) = (0, 0, Instant::now());
    while back < each {
        let may_send = sent < each && sent - back < MAX_AHEAD;
        tokio::select! {
            () = tokio::time::sleep_until(due), if may_send => {
                due = (due + pause).max(Instant::now() - Duration::from_secs(1));
                let len = if random.percent(1) { random.below(100_000) } else { random.below(300) };
                remote.cast(message(BACK, sent, len)).await.map_err(|error| error.to_string())?;
                sent += 1;
                counts.sent.fetch_add(1, Ordering::Relaxed);
                if random.percent(1) {
                    let asked = message(0, sent, 20);
                    let answer = timeout(WINDOW, remote.call_within(WINDOW, asked.clone())).await;
                    match answer {
                        Ok(Ok(answer)) if answer == asked => counts.calls.fetch_add(1, Ordering::Relaxed),
                        other => return Err(format!("a call: {other:?}")),
                    };
                }
            }
            state = watched.connection_changed(seen) => match state {
                Some(state) => {
                    if matches!(state, ConnectionState::Attached { .. }) {
                        counts.resumed.fetch_add(1, Ordering::Relaxed);
                    }
                    seen = state;
                }
                None => return Err(format!("ended: {}", remote.ended().await)),
            },
            came = chan.recv() => match came {
                Some(Message::Cast(bytes)) if number(&bytes) == Some(back) => {
                    back += 1;
                    counts.back.fetch_add(1, Ordering::Relaxed);
                }
                Some(Message::Cast(bytes)) => {
                    return Err(format!("message {:?} came where {back} was due", number(&bytes)));
                }
                _ => return Err(format!("ended: {}", remote.ended().await)),
            },
        }
    }
    chan.close().await.map_err(|reason| format!("close: {reason}"))
}

fn progress(second: u64, made: u64, counts: &Counts) {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    print(&format!("{second} s: {made} cuts, {} resumed, {} back", get(&counts.resumed), get(&counts.back)));
}

/// Prints what was seen, and returns what is wrong.
fn report(
    options: Cuts,
    took: Duration,
    made: u64,
    memory: &[(f64, [Sample; 2])],
    counts: &Counts,
) -> Vec<String> {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let mut wrong = Vec::new();
    print(&format!(
        "{} sessions, {made} cuts in {:.0} s, {} times resumed, {} calls answered",
        options.sessions,
        took.as_secs_f64(),
        get(&counts.resumed),
        get(&counts.calls),
    ));
    let (sent, back) = (get(&counts.sent), get(&counts.back));
    print(&format!("{sent} messages sent, {back} back, each once and in order"));
    if sent != back {
        wrong.push(format!("{} messages are lost", sent - back));
    }
    let last = memory.last().map_or(0.0, |(at, _)| at.min(options.duration.as_secs_f64()));
    for (place, name) in ["server", "clients"].iter().enumerate() {
        let judged = memory.iter().filter(|(at, _)| (last * WARM_UP..=last).contains(at));
        let points: Vec<_> =
            judged.map(|(at, samples)| (*at, samples[place].rss_kib as f64 / 1024.0)).collect();
        let Some(trend) = Trend::of(&points) else { continue };
        let part = 100.0 * trend.part();
        print(&format!("memory of the {name}: mean {:.1} MiB, trend {part:+.1} %", trend.mean));
        if trend.part() > GROWTH {
            wrong.push(format!("memory of the {name} grew by {part:.1} %"));
        }
    }
    wrong
}

#[expect(clippy::print_stdout, reason = "it is what the program is run for")]
fn print(text: &str) {
    println!("{text}");
}
