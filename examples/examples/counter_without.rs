//! The program `counter` with tokio alone, to compare: see `docs/processes.md`.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

enum Message {
    Hit,
    Count(oneshot::Sender<u64>),
    Fall,
}

async fn counter(mut inbox: mpsc::Receiver<Message>) -> Result<(), String> {
    let mut n = 0;
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Hit => n += 1,
            // The caller may have given up.
            Message::Count(reply) => drop(reply.send(n)),
            Message::Fall => return Err("tired".into()),
        }
    }
    Ok(())
}

async fn count(to: &mpsc::Sender<Message>) -> Result<u64, &'static str> {
    let (reply, answer) = oneshot::channel();
    to.send(Message::Count(reply)).await.map_err(|_| "gone, nobody knows why")?;
    match timeout(PATIENCE, answer).await {
        Ok(Ok(n)) => Ok(n),
        Ok(Err(_)) => Err("gone, or dropped the question; executed or not"),
        Err(_) => Err("no answer in time; executed or not"),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (to, inbox) = mpsc::channel(1024);
    let task = tokio::spawn(counter(inbox));
    to.send(Message::Hit).await?;
    to.send(Message::Hit).await?;
    println!("{:?}", count(&to).await);

    to.send(Message::Fall).await?;
    match task.await {
        Ok(Ok(())) => println!("ended"),
        Ok(Err(why)) => println!("ended: {why}"),
        Err(panic) => println!("ended: {panic}"),
    }
    println!("{:?}", count(&to).await);
    Ok(())
}
