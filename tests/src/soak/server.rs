//! The server, and its service.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chan_server::{Server, audit::Audit, config::Config, identity::StateDir, modules::Modules};
use lib_chan::{
    Channel, Event, ExitReason, Message, Pid, Process, Remote, Reply, ending_processes, spawn_with,
};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{
    count::Counts,
    load,
    message::{ToClient, ToService},
};
use crate::{Folder, client_key, differential::random::Random};

/// A connection that is lost without a word is found to be after three of these.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Long enough for every ending that has a bound to come.
const SETTLES: Duration = Duration::from_secs(90);

/// A signal that comes later than this after the end of its session does not come.
const MISSED: Duration = Duration::from_secs(5);

/// The services that run.
#[derive(Clone, Default)]
struct Live(Arc<Mutex<BTreeMap<u64, Pid>>>);

impl Live {
    fn enter(&self, pid: Pid) -> Lives {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, pid);
        Lives { live: self.clone(), number }
    }

    /// One of them, if there are any.
    fn any(&self, random: &mut Random) -> Option<Pid> {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        live.values().nth(random.below(live.len())).cloned()
    }
}

struct Lives {
    live: Live,
    number: u64,
}

impl Drop for Lives {
    fn drop(&mut self) {
        self.live.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// Serves until standard input ends. Prints its URL, its counts each second, and them once more at the end.
pub(super) async fn serve(seed: u64) {
    let (counts, live, folder) = (Counts::default(), Live::default(), Folder::new());
    let server = start(&counts, &live, &folder).await;
    let url = server.urls().remove(0).url;
    say(&format!("url {url}"));
    let told = tokio::spawn(listen(live, seed));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // Those of the server, and those that are told things.
    let idle = tasks();
    while !told.is_finished() {
        tick(&counts).await;
    }
    for _ in 0..SETTLES.as_secs() {
        if counts.so_far().is_settled() && tasks() < idle {
            break;
        }
        tick(&counts).await;
    }
    let mut totals = counts.so_far();
    totals.tasks_left = (tasks() + 1).saturating_sub(idle);
    totals.ending_processes = ending_processes();
    say(&format!("end {}", serde_json::to_string(&totals).expect("counts are JSON")));
}

async fn start(counts: &Counts, live: &Live, folder: &Folder) -> Server {
    let modules = Modules::new().function("soak", "serve", {
        let (counts, live) = (counts.clone(), live.clone());
        move |me: Process, chan, (): (), (): ()| service(me, chan, counts.clone(), live.clone())
    });
    let key = client_key().public_key();
    let heartbeat = HEARTBEAT.as_secs();
    let text = format!(
        "listen = ['127.0.0.1:0']\n[[service]]\nname = 'soak'\nmfa = ['soak', 'serve']\n\
         [[service.client]]\nname = 'joe'\nkey = '{key}'\n\
         [limits]\nmax_sessions_per_client = 10000\nheartbeat_interval = '{heartbeat} s'\n"
    );
    let config = Config::parse(&text, Path::new("soak"), &modules).expect("a configuration");
    let state = StateDir::at(folder.path().join("state"));
    Server::bind(config, &state, Audit::none()).await.expect("the server starts")
}

/// Kills a service for each line that says so, until there are no more lines.
async fn listen(live: Live, seed: u64) {
    let mut random = Random::new(seed);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(service) = live.any(&mut random).filter(|_| line == "kill") {
            service.exit(ExitReason::Kill);
        }
    }
}

/// Says once a second what was counted.
pub(super) async fn tick(counts: &Counts) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    say(&format!("tick {}", serde_json::to_string(&counts.so_far()).expect("counts are JSON")));
}

/// To whoever started this program.
#[expect(clippy::print_stdout, reason = "it is how the programs talk")]
pub(super) fn say(line: &str) {
    println!("{line}");
}

async fn service(
    mut me: Process,
    mut chan: Channel<ToService, ToClient>,
    counts: Counts,
    live: Live,
) -> Result<(), ExitReason> {
    static SEEDS: AtomicU64 = AtomicU64::new(0);
    let seed = SEEDS.fetch_add(1, Ordering::Relaxed);
    let _live = live.enter(me.pid());
    let (mut ran, mut reading) = (counts.start("service"), counts.start("service's channel"));
    // Half of them end with the exit signal, the others read to the end and get it as a message.
    let traps = seed.is_multiple_of(2);
    me.trap_exit(traps);
    let remote = chan.remote();
    // A signal `normal` that came before it trapped exits went by, as it does in Erlang; no other does.
    let may_have_missed = load::is_ready(remote.ended()).await;
    tokio::spawn(push(remote.clone(), counts.clone(), seed));
    let mut link = counts.start("service's link");
    let mut due = 0;
    while let Some(message) = chan.recv().await {
        match message {
            Message::Call(ToService::Echo(echo), reply) => reply.to(&echo).send(echo),
            Message::Call(ToService::Hold(hold), reply) => hold_back(&counts, reply.to(&hold)),
            Message::Call(ToService::Meet(meet), reply) => {
                let far = remote.handed::<u32>(meet.0).pid();
                load::watch(&counts, far.clone());
                let counts = counts.clone();
                let there = spawn_with(load::trapping(), |me| load::ends_with_a_signal(me, counts, far));
                reply.to(&meet).send(remote.hand_out(&there, |n: u32| n));
            }
            Message::Cast(ToService::Note(n, _)) if n == due => due += 1,
            Message::Cast(ToService::Note(n, _)) => {
                counts.fault(format!("note {n} came where {due} was due"));
            }
            Message::Cast(ToService::Fail) => {
                reading.end("failed");
                ran.end("failed");
                link.end("its own end");
                return Err(ExitReason::failed("as told"));
            }
            other => counts.fault(format!("the service got {other:?}")),
        }
    }
    let reason = remote.ended().await;
    reading.end(format!("read to the end: {reason}"));
    if !traps && reason == ExitReason::Normal {
        // That one ends nobody, and is no message either.
        link.end("normal, to one that does not trap exits");
        ran.end("returned");
        return Ok(());
    }
    loop {
        let event = if may_have_missed { me.recv_within(MISSED).await } else { Some(me.recv().await) };
        match event {
            Some(Event::Exit(from, reason)) if from == remote.pid() => link.end(reason),
            Some(_) => continue,
            None if reason == ExitReason::Normal => link.end("normal, before it trapped exits"),
            None => counts.fault(format!("an exit signal {reason} was lost")),
        }
        ran.end("returned");
        return Ok(());
    }
}

/// Leaves a call unanswered until its caller is gone.
fn hold_back(counts: &Counts, reply: Reply<()>) {
    let mut held = counts.start("held call");
    tokio::spawn(async move {
        reply.cancelled().await;
        held.end("cancelled");
    });
}

/// Pushes and calls until the session has ended.
async fn push(remote: Remote<ToClient>, counts: Counts, seed: u64) {
    let (mut random, mut pushing) = (Random::new(seed), counts.start("pushing"));
    for n in 0.. {
        if let Err(error) = remote.cast(ToClient::Push(n, load::payload(&mut random))).await {
            pushing.end(ExitReason::from(error));
            return;
        }
        if random.percent(50) {
            load::echo(&counts, "call by a service", &remote, &mut random).await;
        }
        load::pause(&mut random, 400).await;
    }
}
