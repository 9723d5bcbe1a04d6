//! Calls: answers, timeouts, failures, and whether a failed call was executed.

use super::*;
use crate::{CallError, CallFailure, Executed};

type Ask = Reply<u32>;

fn failed(executed: Executed, reason: CallFailure) -> Result<u32, CallError> {
    Err(CallError { executed, reason })
}

fn exit(executed: Executed, reason: ExitReason) -> Result<u32, CallError> {
    failed(executed, CallFailure::Exit(reason))
}

/// Takes one call and ends with it in its hands.
fn takes_and_ends(result: Result<(), ExitReason>) -> Address<Ask> {
    spawn(|mut me: Process<Ask>| async move {
        let _call = me.recv().await;
        result
    })
}

/// Takes nothing, until it is ended.
fn takes_nothing() -> Address<Ask> {
    spawn(|_me: Process<Ask>| std::future::pending())
}

/// Takes calls and hands them out, to be answered or not by the test.
fn hands_out() -> (Address<Ask>, tokio::sync::mpsc::UnboundedReceiver<Ask>) {
    let (give, calls) = tokio::sync::mpsc::unbounded_channel();
    let server = spawn(|mut me: Process<Ask>| async move {
        while let Event::Message(reply) = me.recv().await {
            let _ = give.send(reply);
        }
        Ok(())
    });
    (server, calls)
}

#[tokio::test]
async fn a_call_is_answered() {
    let (server, mut calls) = hands_out();
    let (answer, ()) = tokio::join!(server.call(LONG, |reply| reply), async {
        calls.recv().await.unwrap().send(7);
    });
    assert_eq!(answer, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_dropped() {
    let (server, mut calls) = hands_out();
    let first = server.call(Duration::from_secs(1), |reply| reply).await;
    assert_eq!(first, failed(Executed::Unknown, CallFailure::Deadline));
    let late = calls.recv().await.unwrap();
    late.cancelled().await;
    late.send(1);
    let (second, ()) = tokio::join!(server.call(LONG, |reply| reply), async {
        calls.recv().await.unwrap().send(2);
    });
    assert_eq!(second, Ok(2));
}

#[tokio::test]
async fn call_to_dead_process_is_not_executed() {
    let server = takes_nothing();
    server.pid().exit(Kill);
    assert_eq!(server.call(LONG, |reply| reply).await, exit(Executed::No, NoProc));
    server.pid().ended().await;
    assert_eq!(server.call(LONG, |reply| reply).await, exit(Executed::No, NoProc));
}

#[tokio::test]
async fn call_fails_with_reason_of_process() {
    let server = takes_and_ends(Err(boom()));
    assert_eq!(server.call(LONG, |reply| reply).await, exit(Executed::Unknown, boom()));
}

#[tokio::test]
async fn a_normal_end_is_a_reason_too() {
    let server = takes_and_ends(Ok(()));
    assert_eq!(server.call(LONG, |reply| reply).await, exit(Executed::Unknown, Normal));
}

#[tokio::test]
async fn a_process_does_not_call_itself() {
    let answer = enter(async |me: Process<Ask>| Ok(me.address().call(LONG, |reply| reply).await)).await;
    assert_eq!(answer, Ok(failed(Executed::No, CallFailure::CallingSelf)));
}

#[tokio::test]
async fn call_fails_with_kill_or_panic() {
    let server = spawn(|mut me: Process<Ask>| async move {
        let _call = me.recv().await;
        std::future::pending().await
    });
    let pid = server.pid();
    let (answer, ()) = tokio::join!(server.call(LONG, |reply| reply), async {
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        pid.exit(Kill);
    });
    assert_eq!(answer, exit(Executed::Unknown, Killed));

    let server = spawn(|mut me: Process<Ask>| async move {
        let _call = me.recv().await;
        panic!("on purpose")
    });
    assert_eq!(server.call(LONG, |reply| reply).await, exit(Executed::Unknown, Panic));
}

#[tokio::test]
async fn a_call_never_taken_is_not_executed() {
    let server = takes_nothing();
    let pid = server.pid();
    let (answer, ()) = tokio::join!(server.call(LONG, |reply| reply), async {
        tokio::task::yield_now().await;
        pid.exit(boom());
    });
    assert_eq!(answer, exit(Executed::No, boom()));
}

#[tokio::test(start_paused = true)]
async fn a_call_withdrawn_in_time_is_never_delivered() {
    let (give, taken) = tokio::sync::oneshot::channel();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let server = spawn(|mut me: Process<Ask>| async move {
        let _ = gone.await;
        let _ = give.send(me.recv_within(Duration::from_secs(1)).await.is_some());
        Ok(())
    });
    let answer = server.call(Duration::from_secs(1), |reply| reply).await;
    assert_eq!(answer, failed(Executed::No, CallFailure::Deadline));
    go.send(()).unwrap();
    assert!(!taken.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_room_is_inside_the_deadline() {
    let options = SpawnOptions { mailbox_capacity: 1, ..SpawnOptions::default() };
    let server = spawn_with(options, |_me: Process<Option<Ask>>| std::future::pending());
    server.send(None).await.unwrap();
    let answer = server.call(Duration::from_secs(1), Some).await;
    assert_eq!(answer, failed(Executed::No, CallFailure::Deadline));
}

#[tokio::test]
async fn a_call_given_up_reaches_the_process() {
    let (server, mut calls) = hands_out();
    let mut call = Box::pin(server.call(LONG, |reply: Ask| reply));
    assert!(now(&mut call).await.is_none());
    let reply = calls.recv().await.unwrap();
    assert!(now(reply.cancelled()).await.is_none());
    let (_, ()) = tokio::join!(reply.cancelled(), async { drop(call) });
}

#[tokio::test]
async fn a_reply_dropped_is_no_answer() {
    let (server, mut calls) = hands_out();
    let (answer, ()) = tokio::join!(server.call(LONG, |reply| reply), async {
        drop(calls.recv().await.unwrap());
    });
    assert_eq!(answer, failed(Executed::Unknown, CallFailure::NoAnswer));
}

#[tokio::test]
async fn caught_panic_gives_no_answer() {
    let server = spawn(|mut me: Process<Ask>| async move {
        let reply = me.recv().await;
        let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _reply = reply;
            panic!("on purpose");
        }));
        assert!(lost.is_err());
        std::future::pending().await
    });
    let answer = server.call(LONG, |reply| reply).await;
    assert_eq!(answer, failed(Executed::Unknown, CallFailure::NoAnswer));
}

#[tokio::test]
async fn a_reply_refused_is_not_executed() {
    let (server, mut calls) = hands_out();
    let (answer, ()) = tokio::join!(server.call(LONG, |reply| reply), async {
        calls.recv().await.unwrap().refuse("not today");
    });
    assert_eq!(answer, failed(Executed::No, CallFailure::Refused("not today".into())));
}

#[tokio::test]
async fn moved_reply_outlives_first_holder() {
    let (second, mut calls) = hands_out();
    let first = spawn(|mut me: Process<Ask>| async move {
        if let Event::Message(reply) = me.recv().await {
            second.send(reply).await?;
        }
        Ok(())
    });
    let pid = first.pid();
    let (answer, ()) = tokio::join!(first.call(LONG, |reply| reply), async {
        let reply = calls.recv().await.unwrap();
        pid.ended().await;
        reply.send(7);
    });
    assert_eq!(answer, Ok(7));
}

#[tokio::test]
async fn reply_ends_with_its_last_holder() {
    let second = takes_and_ends(Err(boom()));
    let first = spawn(|mut me: Process<Ask>| async move {
        if let Event::Message(reply) = me.recv().await {
            second.send(reply).await?;
        }
        std::future::pending().await
    });
    assert_eq!(first.call(LONG, |reply| reply).await, exit(Executed::Unknown, boom()));
}
