//! The routes that a router is known to have, by their templates.

use crate::policy::Method;

/// Routes that were declared, found by their path as axum finds them: by the same templates, in a table of the same kind.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// By path, which of `routes`.
    table: matchit::Router<usize>,
    routes: Vec<Route>,
    is_open: bool,
}

#[derive(Debug)]
struct Route {
    template: String,
    methods: Vec<Method>,
}

impl Declared {
    pub(super) fn add(&mut self, method: Method, template: &str) {
        if let Some(route) = self.routes.iter_mut().find(|route| route.template == template) {
            route.methods.push(method);
            return;
        }
        // axum has taken the same template, or has panicked. One that were not in here would never be found, and refused.
        let _ = self.table.insert(template, self.routes.len());
        self.routes.push(Route { template: template.to_owned(), methods: vec![method] });
    }

    /// The router was changed by hand: it may have routes that are not here.
    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Which route a path has.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        self.table.at(path).ok().map(|found| *found.value)
    }

    pub(super) fn template(&self, route: usize) -> &str {
        self.routes.get(route).map_or("", |route| &route.template)
    }

    /// Whether a route was declared for this method; one for GET serves HEAD as well.
    pub(super) fn has(&self, route: usize, method: Method) -> bool {
        let method = if method == Method::Head { Method::Get } else { method };
        self.routes.get(route).is_some_and(|route| route.methods.contains(&method))
    }

    /// Each method of each route with its template.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Method, &str)> {
        self.routes.iter().flat_map(|route| route.methods.iter().map(|method| (*method, &*route.template)))
    }
}
