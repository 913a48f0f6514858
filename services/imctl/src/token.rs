//! `imctl token`: makes a token and prints it.

use im_cli::failure::{Exit, Failure};
use im_cli::output::Output;
use im_cli::token::{Claims, SECRET_VARIABLE, Signer};

use crate::args::TokenArgs;

/// `imctl token`.
pub(crate) fn run(
    args: &TokenArgs,
    env: impl Fn(&str) -> Option<String>,
    output: &mut Output,
) -> Result<(), Failure> {
    im_client::UserId::new(&args.user).map_err(|error| Failure::usage(format!("--{error}")))?;
    if let Some(device) = &args.device {
        im_client::DeviceId::new(device).map_err(|error| Failure::usage(format!("--{error}")))?;
    }
    let signer = Signer::new(&args.key, env)?.ok_or_else(|| {
        Failure::usage(
            "nothing to sign with: give --secret-file, --secret, or --key-file with --alg",
        )
        .hint(format!(
            "{SECRET_VARIABLE} is read too; standalone keeps its secret in its data directory"
        ))
    })?;
    let mut claims = Claims::new(&args.user, args.ttl).admin(args.admin);
    claims.dev.clone_from(&args.device);
    claims.rooms.clone_from(&args.rooms);
    claims.iss.clone_from(&args.issuer);
    claims.aud.clone_from(&args.audience);
    let token = signer
        .sign(&claims)
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    if args.json {
        output.json(&serde_json::json!({"token": token, "claims": claims}))
    } else {
        output.line(&token)
    }
}
