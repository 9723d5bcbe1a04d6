use std::{future::poll_fn, pin::pin, task::Poll};

use super::*;
use crate::{CastError, payload::Codec, testing};

fn small_window() -> Limits {
    Limits { window_len: Limits::MIN_WINDOW_LEN, max_window_len: 0, ..Limits::default() }
}

#[tokio::test]
async fn cast_all_keeps_order_across_batches_and_waits() {
    let (mut near, far, _line) = testing::pair().limits(small_window()).open::<u64, u64>().await.unwrap();
    let sender = tokio::spawn(async move { far.remote().cast_all(0..20_000_u64).await.map(|()| far) });
    for expected in 0..20_000 {
        let Some(Message::Cast(number)) = near.recv().await else { panic!("no cast {expected}") };
        assert_eq!(number, expected);
    }
    drop(sender.await.unwrap().unwrap());
    assert!(near.recv().await.is_none());
}

#[tokio::test]
async fn cast_all_sends_what_precedes_an_error() {
    let (mut near, far, _line) = testing::pair().open::<String, String>().await.unwrap();
    let too_long = "x".repeat(far.remote().max_payload_len() + 1);
    let failed = far.remote().cast_all(["one".to_owned(), too_long, "three".to_owned()]).await;
    assert!(matches!(failed, Err(CastError::TooLong { .. })), "{failed:?}");
    drop(far);
    assert!(matches!(near.recv().await, Some(Message::Cast(text)) if text == "one"));
    assert!(near.recv().await.is_none());
}

#[tokio::test]
async fn dropped_cast_all_leaves_rest_of_iterator() {
    let (mut near, far, _line) = testing::pair().limits(small_window()).open::<u64, u64>().await.unwrap();
    let mut numbers = 0..1_000_000_u64;
    {
        let remote = far.remote();
        let mut casting = pin!(remote.cast_all(numbers.by_ref()));
        // Nobody receives, so it waits for credit sooner or later.
        for _ in 0..100 {
            let polled = poll_fn(|cx| Poll::Ready(casting.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            tokio::task::yield_now().await;
        }
    }
    let taken = numbers.start;
    drop(far);
    let mut arrived = 0;
    while let Some(Message::Cast(number)) = near.recv().await {
        assert_eq!(number, arrived);
        arrived += 1;
    }
    assert!(arrived > 0 && (arrived..=arrived + 256).contains(&taken), "{arrived} of {taken}");
}

#[tokio::test]
async fn recv_with_borrows_in_every_codec() {
    for codec in [Codec::Bincode, Codec::Json, Codec::Raw] {
        let pair = testing::pair().codec(codec);
        let (mut near, far, _line) = pair.open::<String, String>().await.unwrap();
        far.remote().cast("text").await.unwrap();
        drop(far);
        let len = near.recv_with(|message| match message {
            Message::Cast(text) => {
                let borrowed: &str = text;
                assert_eq!(borrowed, "text");
                borrowed.len()
            }
            Message::Call(..) => panic!("a call"),
        });
        assert_eq!(len.await, Some(4), "{codec}");
        assert_eq!(near.recv_with(|_| ()).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn remote_closes_after_everything_has_arrived() {
    let (near, mut far, _line) = testing::pair().open::<String, String>().await.unwrap();
    let remote = near.into_remote();
    let other = remote.clone();
    remote.cast("last").await.unwrap();
    let read = async {
        assert!(matches!(far.recv().await, Some(Message::Cast(text)) if text == "last"));
        assert!(far.recv().await.is_none());
        far.remote().ended().await
    };
    let (closed, ended) = tokio::join!(remote.close(), read);
    assert_eq!((closed, ended), (Ok(()), ExitReason::Normal));
    assert_eq!(other.cast("late").await, Err(CastError::Ended(ExitReason::Normal)));
}
