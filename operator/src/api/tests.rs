//! The resource as users and the API server see it, and the objects made of it.

mod conditions;
mod definition;
mod golden;
mod properties;
mod refusals;
mod rules;
mod samples;
mod settings;
