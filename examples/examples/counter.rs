//! A process, and one that looks after it: the program of `docs/processes.md`.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::time::Duration;

use lib_chan::{Event, ExitReason, Process, Reply, enter};

const PATIENCE: Duration = Duration::from_secs(5);

enum Message {
    Hit,
    Count(Reply<u64>),
    Fall,
}

async fn counter(mut me: Process<Message>) -> Result<(), ExitReason> {
    let mut n = 0;
    loop {
        match me.recv().await {
            Event::Message(Message::Hit) => n += 1,
            Event::Message(Message::Count(reply)) => reply.send(n),
            Event::Message(Message::Fall) => return Err(ExitReason::failed("tired")),
            Event::Exit(..) | Event::Down(..) => {}
        }
    }
}

async fn keeper(mut me: Process) -> Result<(), ExitReason> {
    me.trap_exit(true);
    let counter = me.spawn_link(counter);
    counter.send(Message::Hit).await?;
    counter.send(Message::Hit).await?;
    println!("{}", counter.call(PATIENCE, Message::Count).await?);

    counter.send(Message::Fall).await?;
    if let Event::Exit(_, why) = me.recv().await {
        println!("ended: {why}");
    }
    if let Err(error) = counter.call(PATIENCE, Message::Count).await {
        println!("{error}");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), ExitReason> {
    enter(keeper).await
}
