//! Connections present themselves: a token becomes a grant, and a newer token a newer one.

use std::net::IpAddr;

use im_proto::v1::{Authenticate, Authenticated, Refresh, Refreshed};
use im_runtime::clock;
use im_wire::ids::{DeviceId, UserId};
use uuid::Uuid;

use super::grant::Grant;
use super::metrics::{UNSIGNED, count_failure};
use super::token::Claims;
use crate::auth;
use crate::core::Core;
use crate::error::Result;
use crate::store::Presence;

impl Core {
    /// What a token says, counted where it is not to be believed.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims> {
        let claims = self.verifier.verify(token);
        if let Err(error) = &claims {
            count_failure(error);
        }
        Ok(claims?)
    }

    /// A connection presents itself; its presence begins.
    pub(crate) async fn authenticate(
        &self,
        conn: &str,
        ask: Authenticate,
    ) -> Result<Authenticated> {
        let grant = self.identify(&ask)?;
        self.bans.loaded().await?;
        self.seal.ready().await?;
        self.bans.refuse(
            &grant,
            ask.remote_ip
                .parse()
                .ok()
                .map(|address: IpAddr| address.to_canonical()),
        )?;
        if !conn.is_empty() {
            let presence = Presence {
                user: grant.user()?,
                device: grant.device.clone(),
                conn: conn.to_owned(),
                node: ask.node,
                since_ms: clock::unix_ms(),
                place: ask.place,
            };
            // A connection that nobody could find would miss pushes, kicks and changes of its rooms: better none.
            self.store.connections.connected(presence).await?;
        }
        let grant_sealed = self.seal.close(&grant)?;
        let expires_ms = grant.expires_ms;
        let Grant {
            user,
            device,
            issued_ms,
            device_unproven,
            ..
        } = grant;
        Ok(Authenticated {
            grant: grant_sealed,
            expires_ms,
            user,
            device,
            issued_ms,
            device_unproven,
        })
    }

    fn identify(&self, ask: &Authenticate) -> Result<Grant> {
        let named = match ask.device.as_str() {
            "" => None,
            device => Some(DeviceId::new(device)?),
        };
        if ask.token.is_empty() && self.options.auth.allow_unsigned && !ask.unsigned_user.is_empty()
        {
            UNSIGNED.inc();
            return self.unsigned(&UserId::new(&ask.unsigned_user)?, named);
        }
        let claims = self.verify(&ask.token)?;
        // goim's `mid` and golang-im's `user_id` say what the token says, or nothing.
        if !ask.unsigned_user.is_empty() && ask.unsigned_user != claims.user.as_str() {
            return Err(failed(auth::Error::OtherUser));
        }
        let device = match (claims.device.clone(), named) {
            (Some(claimed), Some(named)) if claimed != named => {
                return Err(failed(auth::Error::OtherDevice));
            }
            (Some(device), _) | (None, Some(device)) => device,
            // Nobody can have named it before.
            (None, None) => {
                return Ok(Grant {
                    device_unproven: false,
                    ..claims.grant(&generated_device()?)
                });
            }
        };
        Ok(claims.grant(&device))
    }

    fn unsigned(&self, user: &UserId, device: Option<DeviceId>) -> Result<Grant> {
        let device = match device {
            Some(device) => device,
            None => generated_device()?,
        };
        Ok(Grant {
            version: Grant::VERSION,
            user: user.as_str().to_owned(),
            device: device.as_str().to_owned(),
            rooms: self.options.auth.unsigned_rooms.clone(),
            unsigned: true,
            ..Grant::default()
        })
    }

    /// A newer token for the same user and device. The grant's own time may be over: that is what the token is for.
    pub(crate) fn refresh(&self, grant: &Grant, ask: &Refresh) -> Result<Refreshed> {
        let claims = self.verify(&ask.token)?;
        if claims.user.as_str() != grant.user {
            return Err(failed(auth::Error::OtherUser));
        }
        let device = DeviceId::new(&grant.device)?;
        if claims
            .device
            .as_ref()
            .is_some_and(|claimed| *claimed != device)
        {
            return Err(failed(auth::Error::OtherDevice));
        }
        let renewed = claims.grant(&device);
        // A token of this connection has named the device once: that one without the claim follows takes nothing back.
        let renewed = Grant {
            device_unproven: renewed.device_unproven && grant.device_unproven,
            ..renewed
        };
        self.bans.refuse(&renewed, None)?;
        let as_wide = (renewed.admin || !grant.admin)
            && grant.rooms.iter().all(|room| renewed.rooms.contains(room));
        let Grant {
            expires_ms,
            issued_ms,
            device_unproven,
            ..
        } = renewed;
        Ok(Refreshed {
            grant: self.seal.close(&renewed)?,
            expires_ms,
            as_wide,
            issued_ms,
            device_unproven,
        })
    }
}

fn failed(error: auth::Error) -> crate::Error {
    count_failure(&error);
    error.into()
}

fn generated_device() -> Result<DeviceId> {
    Ok(DeviceId::new(Uuid::new_v4().to_string())?)
}
