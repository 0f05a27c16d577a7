//! admin_api
