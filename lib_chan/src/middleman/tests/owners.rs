//! Links between the owners of the two ends.

use super::*;

/// A session whose ends are owned by an [`actor`] each: the client's, and the service.
async fn two_owners() -> (crate::Address<Order>, crate::Address<Order>) {
    let (tell_service, told) = oneshot::channel();
    let (channel, _served) = session(&Limits::default(), false, move |opening| {
        spawn(async move |mut me: Process<Order>| {
            let channel: Channel<Request, String> = opening.accept();
            let _ = tell_service.send((me.address(), channel.remote()));
            act(&mut me, channel.remote().pid()).await
        });
    })
    .await;
    let (service, _remote) = told.await.unwrap();
    let client = spawn(async move |mut me: Process<Order>| {
        let mut channel = channel;
        // The first look makes this process the owner.
        assert!(tokio::time::timeout(Duration::ZERO, channel.recv()).await.is_err());
        act(&mut me, channel.remote().pid()).await
    });
    (client, service)
}

/// Links to the far owner or takes the link back as it is told, and shows what it saw.
async fn act(me: &mut Process<Order>, far: crate::Pid) -> Result<(), ExitReason> {
    let mut seen = Vec::new();
    loop {
        match me.recv().await {
            Event::Message(Order::Note(text)) => match &*text {
                "link" => me.link(far.clone())?,
                "unlink" => me.unlink(far.clone()),
                text => return Err(ExitReason::failed(text)),
            },
            Event::Message(Order::Do(order)) => order(me)?,
            Event::Message(Order::Show(reply)) => reply.send(seen.clone()),
            Event::Exit(from, reason) => seen.push(format!("{} {reason}", from == far)),
            Event::Down(_, _, reason) => seen.push(format!("down {reason}")),
        }
    }
}

async fn order(to: &crate::Address<Order>, text: &str) {
    to.send(Order::Note(text.into())).await.unwrap();
    // The clock is paused: it moves when nobody has anything to do.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn trap(address: &crate::Address<Order>) {
    tell(address, |me| {
        me.trap_exit(true);
        Ok(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn normal_end_of_linked_client_harms_no_service() {
    let (client, service) = two_owners().await;
    order(&client, "link").await;
    tell(&client, |_| Err(ExitReason::Normal)).await;
    client.pid().ended().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(seen(&service, 0).await.is_empty(), "it answers: it is alive");
}

#[tokio::test(start_paused = true)]
async fn client_link_brings_its_reason() {
    let (client, service) = two_owners().await;
    trap(&service).await;
    order(&client, "link").await;
    order(&service, "link").await;
    order(&client, "boom").await;
    assert_eq!(seen(&service, 1).await, ["true failed: boom"], "one exit, from the pid of the remote");
}

#[tokio::test(start_paused = true)]
async fn service_link_brings_its_reason_to_client() {
    let (client, service) = two_owners().await;
    trap(&client).await;
    // A service is linked to its client from the start, but the client is not linked to it.
    order(&service, "link").await;
    order(&service, "boom").await;
    assert_eq!(seen(&client, 1).await, ["true failed: boom"]);
}

#[tokio::test(start_paused = true)]
async fn service_unlinks_what_it_linked() {
    let (client, service) = two_owners().await;
    trap(&client).await;
    order(&service, "link").await;
    order(&service, "unlink").await;
    order(&service, "boom").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(seen(&client, 0).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn service_that_is_not_linked_tells_client_nothing() {
    let (client, service) = two_owners().await;
    trap(&client).await;
    order(&service, "boom").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(seen(&client, 0).await.is_empty());
}
