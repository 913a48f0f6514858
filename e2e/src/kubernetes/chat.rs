//! Clients that send and read a few messages of an ImCluster.

use std::time::Duration;

use anyhow::{Context, Result};
use im_client::{Client, Event, Events, Outgoing};
use im_wire::ids::RoomId;
use im_wire::native::Position;

use super::client::Kube;
use super::scenario::signer;
use crate::token::Signer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(15);

/// A user of one ImCluster in one room.
pub(crate) struct Participant<'a> {
    kube: &'a Kube,
    signer: Signer,
    /// Namespace and name of the ImCluster.
    cluster: (&'a str, &'a str),
    room: RoomId,
}

impl<'a> Participant<'a> {
    /// With the key that the ImCluster has now.
    pub(crate) async fn of(
        kube: &'a Kube,
        cluster: (&'a str, &'a str),
        room: &str,
    ) -> Result<Self> {
        Ok(Self {
            kube,
            signer: signer(kube, cluster.0, cluster.1).await?,
            cluster,
            room: RoomId::new(room)?,
        })
    }

    /// Sends messages: their ids.
    pub(crate) async fn send(&self, count: usize) -> Result<Vec<String>> {
        let (client, _events) = self.connect().await?;
        let mut ids = Vec::new();
        for number in 0..count {
            ids.push(
                client
                    .send(Outgoing::text(
                        self.room.clone(),
                        format!("message {number}"),
                    ))
                    .await?
                    .id,
            );
        }
        client.close().await;
        Ok(ids)
    }

    /// The ids of the newest messages, oldest first.
    pub(crate) async fn history(&self) -> Result<Vec<String>> {
        let (client, _events) = self.connect().await?;
        let page = client
            .history(self.room.clone(), im_client::Part::Latest, 100)
            .await?;
        client.close().await;
        Ok(page
            .messages
            .into_iter()
            .map(|message| message.id)
            .collect())
    }

    async fn connect(&self) -> Result<(Client, Events)> {
        let (namespace, name) = self.cluster;
        let tcp = self
            .kube
            .node_addresses(namespace, &format!("{name}-connect"), "tcp")
            .await?;
        let addresses: Vec<String> = tcp
            .iter()
            .map(|address| format!("tcp://{address}"))
            .collect();
        let builder = Client::builder().addresses(addresses).device("one");
        let token = self.signer.token("keeper", "", &[self.room.as_str()])?;
        let position = Position {
            room: self.room.clone(),
            epoch: 0,
            seq: None,
        };
        let (client, events) = builder.token(token).subscribe([position]).build()?;
        tokio::time::timeout(CONNECT_TIMEOUT, client.connected())
            .await
            .context("cannot connect")??;
        Ok((client, events))
    }
}

/// Two users, one over each transport, receive each other's messages.
#[expect(clippy::print_stdout, reason = "a command line program")]
pub(crate) async fn chat(signer: &Signer, tcp: &str, ws: &str) -> Result<()> {
    let room = RoomId::new("lobby")?;
    let join = |user: &str, address: &str| -> Result<_> {
        let position = Position {
            room: room.clone(),
            epoch: 0,
            seq: None,
        };
        let token = signer.token(user, "", &["lobby"])?;
        Ok(Client::builder()
            .address(address)
            .token(token)
            .device("one")
            .subscribe([position])
            .build()?)
    };
    let (ada, mut ada_events) = join("ada", tcp)?;
    let (grace, mut grace_events) = join("grace", ws)?;
    for client in [&ada, &grace] {
        tokio::time::timeout(CONNECT_TIMEOUT, client.connected())
            .await
            .context("cannot connect")??;
    }
    let messages = [
        (&ada, "hello from TCP", &mut grace_events),
        (&grace, "hello from WebSocket", &mut ada_events),
    ];
    for (sender, text, events) in messages {
        sender.send(Outgoing::text(room.clone(), text)).await?;
        let received = async {
            loop {
                match events.next().await.context("the client ended")? {
                    Event::Message(message) if message.body.bytes() == text.as_bytes() => {
                        return anyhow::Ok(());
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DELIVERY_TIMEOUT, received)
            .await
            .with_context(|| format!("{text:?} was not delivered"))??;
        println!("  delivered: {text}");
    }
    Ok(())
}
