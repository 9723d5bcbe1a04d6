//! Clients: so many sessions, each opened anew when it has ended.

use std::{sync::Arc, time::Duration};

use chan_client::connect;
use lib_chan::{
    Address, Channel, Event, ExitReason, Limits, Message, Pid, Process, Remote, ending_processes, enter,
    secret::PrivateKey, spawn_with,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    count::Counts,
    load,
    message::{Hold, Meet, ToClient, ToService},
    server::{say, tick},
};
use crate::{client_key, differential::random::Random};

/// Long enough for every ending that has a bound to come.
const SETTLES: Duration = Duration::from_secs(90);

/// What happens to one session.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Its task is aborted.
    Drop,
    /// It reads nothing for so many milliseconds.
    Stall(u64),
    /// It closes in good order.
    Close,
    /// Its service is told to fail.
    Fail,
}

impl Order {
    /// From `drop`, `stall 300`, `close` or `fail`.
    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            Some(("stall", ms)) => ms.parse().ok().map(Self::Stall),
            Some(_) => None,
            None => match line {
                "drop" => Some(Self::Drop),
                "close" => Some(Self::Close),
                "fail" => Some(Self::Fail),
                _ => None,
            },
        }
    }
}

/// What all sessions of the program share.
struct Clients {
    url: String,
    key: PrivateKey,
    counts: Counts,
    /// Turns true at the end: then sessions are closed, and not opened any more.
    stop: watch::Receiver<bool>,
}

/// Keeps the sessions open until standard input ends. Each line of it is an order for one of them, chosen by chance.
/// Prints its counts each second, and them once more at the end.
pub(super) async fn run(url: &str, sessions: usize, seed: u64) {
    let (stop, stopped) = watch::channel(false);
    let counts = Counts::default();
    let clients =
        Arc::new(Clients { url: url.into(), key: client_key(), counts: counts.clone(), stop: stopped });
    let mut slots = JoinSet::new();
    let orders: Vec<_> = (0..sessions)
        .map(|number| {
            let (order, orders) = mpsc::unbounded_channel();
            slots.spawn(slot(Arc::clone(&clients), orders, seed + number as u64));
            order
        })
        .collect();
    let listening = tokio::spawn(async move {
        let mut random = Random::new(seed);
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(order) = Order::parse(&line) {
                // The slots are there until they are stopped.
                let _ = orders[random.below(orders.len())].send(order);
            }
        }
    });
    while !listening.is_finished() {
        tick(&counts).await;
    }
    let _ = stop.send(true);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..SETTLES.as_secs() {
        while slots.try_join_next().is_some() {}
        if slots.is_empty() && counts.so_far().is_settled() && tasks() == 0 {
            break;
        }
        tick(&counts).await;
    }
    let mut totals = counts.so_far();
    totals.tasks_left = tasks();
    totals.ending_processes = ending_processes();
    say(&format!("end {}", serde_json::to_string(&totals).expect("counts are JSON")));
}

/// One session after the other.
async fn slot(clients: Arc<Clients>, mut orders: mpsc::UnboundedReceiver<Order>, seed: u64) {
    let mut random = Random::new(seed);
    let mut stop = clients.stop.clone();
    // Not all at once.
    load::pause(&mut random, 2000).await;
    while !*stop.borrow() {
        let (tell, told) = mpsc::unbounded_channel();
        let mut life =
            tokio::spawn(live(Arc::clone(&clients), told, Random::new(seed ^ random.below(1 << 30) as u64)));
        loop {
            tokio::select! {
                _ = &mut life => break,
                Some(order) = orders.recv() => match order {
                    Order::Drop => life.abort(),
                    order => _ = tell.send(order),
                },
                () = stopped(&mut stop) => {
                    let _ = tell.send(Order::Close);
                    // It may hang in a stall or an opening; both are bounded.
                    let _ = (&mut life).await;
                    break;
                }
            }
        }
        load::pause(&mut random, 200).await;
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever could say so goes only with the program.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One session, from its opening to its end, as a process.
async fn live(clients: Arc<Clients>, orders: mpsc::UnboundedReceiver<Order>, random: Random) {
    let ended = enter(async move |me: Process| {
        me.trap_exit(true);
        let counts = clients.counts.clone();
        let mut opening = counts.start("opening");
        let limits = Limits::default();
        let opened = connect(clients.url.as_str()).key(&clients.key).limits(limits).linked().open().await;
        match opened {
            Ok(channel) => {
                opening.end("open");
                session(me, channel, &counts, orders, random).await;
            }
            Err(error) => {
                // Without what is different each time.
                opening.end(error.to_string().split([':', '(']).next().unwrap_or_default());
            }
        }
        Ok(())
    });
    // It returns nothing else, unless it is ended by a signal, which it traps.
    let _ = ended.await;
}

async fn session(
    mut me: Process,
    mut channel: Channel<ToClient, ToService>,
    counts: &Counts,
    mut orders: mpsc::UnboundedReceiver<Order>,
    random: Random,
) {
    let (mut session, mut link) = (counts.start("session"), counts.start("client's link"));
    let remote = channel.remote();
    work(&remote, counts, &random);
    let mut due = 0;
    let reason = loop {
        let order = tokio::select! {
            biased;
            Some(order) = orders.recv() => order,
            message = channel.recv() => {
                match message {
                    Some(Message::Call(ToClient::Echo(echo), reply)) => reply.to(&echo).send(echo),
                    Some(Message::Cast(ToClient::Push(n, _))) if n == due => due += 1,
                    Some(other) => counts.fault(format!("the client got {other:?} where {due} was due")),
                    None => break remote.ended().await,
                }
                continue;
            }
        };
        match order {
            Order::Stall(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            // One that would have to wait is not sent.
            Order::Fail => drop(remote.try_cast(ToService::Fail)),
            Order::Close | Order::Drop => {
                let closed = channel.close().await;
                break closed.err().unwrap_or(ExitReason::Normal);
            }
        }
    };
    session.end(reason);
    // It is linked, so it is told as well.
    loop {
        if let Event::Exit(from, reason) = me.recv().await
            && from == remote.pid()
        {
            return link.end(reason);
        }
    }
}

/// Starts what a session is used for. All of it ends when the session does.
fn work(remote: &Remote<ToService>, counts: &Counts, random: &Random) {
    load::watch(counts, remote.pid());
    let [mut first, second, third] = [1, 2, 3].map(|n| {
        let mut random = random.clone();
        Random::new(n + random.below(1 << 30) as u64)
    });
    let (calling, noting, meeting) = (counts.clone(), counts.clone(), counts.clone());
    tokio::spawn({
        let remote = remote.clone();
        async move {
            while !load::is_ready(remote.ended()).await {
                call(&calling, &remote, &mut first).await;
                load::pause(&mut first, 300).await;
            }
        }
    });
    tokio::spawn(note(remote.clone(), noting, second));
    tokio::spawn(meet(remote.clone(), meeting, third));
}

/// A call of one kind or another.
async fn call(counts: &Counts, remote: &Remote<ToService>, random: &mut Random) {
    match random.below(10) {
        0 => {
            let within = Duration::from_millis(random.below(500) as u64);
            load::call(counts, "call", remote, within, Hold).await;
        }
        1 => {
            // Given up at some time.
            let patience = Duration::from_millis(random.below(3) as u64);
            let echo = load::echo(counts, "call", remote, random);
            let _ = tokio::time::timeout(patience, echo).await;
        }
        _ => load::echo(counts, "call", remote, random).await,
    }
}

/// Casts a sequence, and now and then waits until it has arrived.
async fn note(remote: Remote<ToService>, counts: Counts, mut random: Random) {
    let mut noting = counts.start("noting");
    for n in 0.. {
        if let Err(error) = remote.cast(ToService::Note(n, load::payload(&mut random))).await {
            return noting.end(ExitReason::from(error));
        }
        if random.percent(5) {
            let mut flush = counts.start("flush");
            flush.end(remote.flush().await.map_or_else(|reason| reason.to_string(), |()| "arrived".into()));
        }
        load::pause(&mut random, 400).await;
    }
}

/// A process here and one there, linked both ways, again and again.
async fn meet(remote: Remote<ToService>, counts: Counts, mut random: Random) {
    loop {
        load::pause(&mut random, 2000).await;
        let here = spawn_with(load::trapping(), {
            let counts = counts.clone();
            async move |me| here(me, counts).await
        });
        let id = remote.hand_out(&here, |_: u32| None);
        let within = Duration::from_secs(60);
        let there = load::call(&counts, "introduction", &remote, within, Meet(id)).await;
        let lives = there.is_some();
        introduce(&here, there.map(|id| remote.handed::<u32>(id).pid())).await;
        here.pid().ended().await;
        if !lives {
            return;
        }
    }
}

async fn introduce(here: &Address<Option<Pid>>, there: Option<Pid>) {
    // It waits for this.
    let _ = here.send(there).await;
}

/// Links to the process that it is told of, tells it to exit, and ends when that has been seen.
async fn here(mut me: Process<Option<Pid>>, counts: Counts) -> Result<(), ExitReason> {
    loop {
        match me.recv().await {
            Event::Message(Some(there)) => {
                let exits = || there.exit(ExitReason::failed("told to"));
                load::see_the_end(&mut me, &counts, there.clone(), exits).await;
                return Err(ExitReason::failed("done"));
            }
            Event::Message(None) => return Ok(()),
            Event::Exit(..) | Event::Down(..) => {}
        }
    }
}
