use tokio::time::Instant;

use super::*;
use crate::{Call, CallError, CallFailure, Executed, Message};

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Double(u32);

impl Call for Double {
    type Reply = u32;
}

async fn doubles(_me: Process, mut chan: Channel<Double, String>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        match message {
            Message::Call(request, reply) => reply.to(&request).send(2 * request.0),
            Message::Cast(Double(number)) => chan.remote().cast(number.to_string()).await?,
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn delay_counts_in_both_directions() {
    let delay = Duration::from_millis(50);
    let (chan, line) = pair().delay(delay).serve(doubles).await.unwrap();
    let start = Instant::now();
    assert_eq!(chan.remote().call(Double(4)).await, Ok(8));
    assert_eq!(start.elapsed(), 2 * delay);
    line.set_delay(Duration::ZERO);
    assert_eq!(chan.remote().call(Double(5)).await, Ok(10));
    assert_eq!(start.elapsed(), 2 * delay);
}

#[tokio::test(start_paused = true)]
async fn held_bytes_arrive_in_order_after_release() {
    let (mut chan, line) = pair().codec(Codec::Json).serve(doubles).await.unwrap();
    line.hold();
    for number in 0..1000 {
        chan.remote().cast(Double(number)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    line.release();
    for number in 0..1000 {
        assert!(matches!(chan.recv().await, Some(Message::Cast(text)) if text == number.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_after_three_heartbeats() {
    let limits = Limits::default();
    let (chan, line) = pair().serve(doubles).await.unwrap();
    let start = Instant::now();
    line.hold();
    assert_eq!(chan.remote().ended().await, ExitReason::NoConnection);
    let three = 3 * limits.heartbeat_interval;
    assert!((three..three + Duration::from_secs(1)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn cut_ends_both_ends_with_noconnection() {
    let (client, mut server, line) = pair().open::<Double, String>().await.unwrap();
    let remote = client.remote();
    let call = tokio::spawn(async move { remote.call(Double(1)).await });
    let Some(Message::Call(Double(1), reply)) = server.recv().await else { panic!("a call") };
    line.cut();
    let gone = CallFailure::Exit(ExitReason::NoConnection);
    assert_eq!(call.await.unwrap(), Err(CallError::new(Executed::Unknown, gone)));
    reply.cancelled().await;
    assert!(server.recv().await.is_none());
    assert_eq!(server.remote().ended().await, ExitReason::NoConnection);
}

#[tokio::test(start_paused = true)]
async fn names_are_those_that_were_asked_for() {
    let (_client, server, _line) = pair().client("joe").service("names").open::<(), ()>().await.unwrap();
    assert_eq!((server.client(), server.service()), ("joe", "names"));
    let invalid = pair().client("no spaces").open::<(), ()>().await.unwrap_err();
    assert!(matches!(invalid, PairError::Invalid(_)), "{invalid:?}");
}

#[tokio::test(start_paused = true)]
async fn ends_that_close_leave_nothing_running() {
    let (chan, line) = pair().serve(doubles).await.unwrap();
    assert_eq!(chan.close().await, Ok(()));
    // The ends of the line, which hold it, go with the tasks that drive the session.
    while line.holders() > 1 {
        tokio::task::yield_now().await;
    }
}
