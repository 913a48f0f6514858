//! The resource as users and the API server see it.

mod definition;
