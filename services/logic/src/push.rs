//! What is addressed to somebody and not to a room: pushes to users and devices, broadcasts.

use std::collections::BTreeSet;

use im_proto::v1::push_request::Target;
use im_proto::v1::{Names, PushRequest, Signal, UserDevice};
use im_wire::ids::{DeviceId, RoomId, UserId};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::nodes::{Tally, To};
use crate::store::Presence;

/// The nodes that hold these connections; `None` where there is none.
pub(crate) fn nodes_of(connections: &[Presence]) -> Option<To> {
    let names: BTreeSet<&str> = connections
        .iter()
        .map(|connection| connection.node.as_str())
        .collect();
    (!names.is_empty()).then(|| To::Named(names.into_iter().map(str::to_owned).collect()))
}

impl Core {
    /// Delivers to the users' connections, wherever they are.
    pub(crate) async fn push_users(&self, users: &[UserId], signal: Signal) -> Result<Tally> {
        self.check_pushed(users.len(), &signal)?;
        let presence = self.store.connections.presence(users).await?;
        let connections: Vec<_> = presence
            .into_iter()
            .flat_map(|(connections, _)| connections)
            .collect();
        let Some(to) = nodes_of(&connections) else {
            return Ok(Tally::default());
        };
        let names = users.iter().map(|user| user.as_str().to_owned()).collect();
        let target = Some(Target::Users(Names { names }));
        Ok(self
            .nodes
            .push(
                to,
                PushRequest {
                    target,
                    signal: Some(signal),
                    speed: 0,
                },
            )
            .await)
    }

    /// Delivers to the connections of one device of a user, whoever named it.
    pub(crate) async fn push_user_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        signal: Signal,
    ) -> Result<Tally> {
        self.check_pushed(1, &signal)?;
        let presence = self
            .store
            .connections
            .presence(std::slice::from_ref(user))
            .await?;
        let connections = presence
            .into_iter()
            .flat_map(|(connections, _)| connections);
        let connections: Vec<_> = connections
            .filter(|one| one.device == device.as_str())
            .collect();
        let Some(to) = nodes_of(&connections) else {
            return Ok(Tally::default());
        };
        let user = user.as_str().to_owned();
        let device = device.as_str().to_owned();
        let target = Some(Target::UserDevice(UserDevice { user, device }));
        Ok(self
            .nodes
            .push(
                to,
                PushRequest {
                    target,
                    signal: Some(signal),
                    speed: 0,
                },
            )
            .await)
    }

    /// Delivers to devices' connections: to those whose token names the device, as a client may call its own whatever it
    /// likes. Where a device is, no index says: every node is asked.
    pub(crate) async fn push_devices(&self, devices: &[DeviceId], signal: Signal) -> Result<Tally> {
        self.check_pushed(devices.len(), &signal)?;
        let names = devices
            .iter()
            .map(|device| device.as_str().to_owned())
            .collect();
        let target = Some(Target::Devices(Names { names }));
        Ok(self
            .nodes
            .push(
                To::All,
                PushRequest {
                    target,
                    signal: Some(signal),
                    speed: 0,
                },
            )
            .await)
    }

    /// Delivers to every connection, `speed` of them per second and node (0: at once).
    pub(crate) async fn broadcast(&self, signal: Signal, speed: u32) -> Result<Tally> {
        self.check_pushed(1, &signal)?;
        let target = Some(Target::Everyone(true));
        Ok(self
            .nodes
            .push(
                To::All,
                PushRequest {
                    target,
                    signal: Some(signal),
                    speed,
                },
            )
            .await)
    }

    /// Delivers to whoever hears a room, without storing.
    pub(crate) async fn push_room(&self, room: &RoomId, signal: Signal) -> Result<()> {
        self.check_pushed(1, &signal)?;
        Ok(self.store.messages.signal(room, signal).await?)
    }

    fn check_pushed(&self, receivers: usize, signal: &Signal) -> Result<()> {
        let limit = self.options.limits.max_users_per_call;
        if receivers > limit {
            return Err(Error::LimitReached {
                what: "receivers of one push",
                limit,
            });
        }
        self.check_body(&signal.body, signal.encoding)
    }
}
