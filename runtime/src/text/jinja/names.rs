//! Walks over the expressions of a template. Macros accept more arguments if they mention `varargs`, `kwargs` or `caller`.

use minijinja::machinery::ast::{CallArg, Expr, Stmt};

/// Which expressions of a block a walk visits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All except those of inner macros.
    Own,
    /// All.
    Everything,
}

/// True if a statement reads this variable. An inner macro has variables of its own.
pub(super) fn mentions(statements: &[Stmt<'_>], name: &str) -> bool {
    any(statements, Reach::Own, &mut |expression| is_variable(expression, name))
}

/// True if an expression reads this variable.
pub(super) fn names_in(expression: &Expr<'_>, name: &str) -> bool {
    any_in(expression, &mut |expression| is_variable(expression, name))
}

fn is_variable(expression: &Expr<'_>, name: &str) -> bool {
    matches!(expression, Expr::Var(variable) if variable.id == name)
}

/// True if an expression of these statements is one that `wanted` accepts. It visits outer expressions before their parts, and
/// stops at the first.
pub(super) fn any<'a>(statements: &'a [Stmt<'a>], reach: Reach, wanted: &mut dyn FnMut(&'a Expr<'a>) -> bool) -> bool {
    statements.iter().any(|statement| in_statement(statement, reach, wanted))
}

fn in_statement<'a>(statement: &'a Stmt<'a>, reach: Reach, wanted: &mut dyn FnMut(&'a Expr<'a>) -> bool) -> bool {
    match statement {
        Stmt::Template(template) => any(&template.children, reach, wanted),
        Stmt::EmitExpr(emitted) => any_in(&emitted.expr, wanted),
        Stmt::ForLoop(repeated) => {
            any_in(&repeated.iter, wanted)
                || repeated.filter_expr.as_ref().is_some_and(|filter| any_in(filter, wanted))
                || any(&repeated.body, reach, wanted)
                || any(&repeated.else_body, reach, wanted)
        }
        Stmt::IfCond(condition) => {
            any_in(&condition.expr, wanted)
                || any(&condition.true_body, reach, wanted)
                || any(&condition.false_body, reach, wanted)
        }
        Stmt::WithBlock(with) => {
            with.assignments.iter().any(|(_, value)| any_in(value, wanted)) || any(&with.body, reach, wanted)
        }
        Stmt::Set(set) => any_in(&set.expr, wanted),
        Stmt::SetBlock(set) => {
            set.filter.as_ref().is_some_and(|filter| any_in(filter, wanted)) || any(&set.body, reach, wanted)
        }
        Stmt::AutoEscape(escape) => any_in(&escape.enabled, wanted) || any(&escape.body, reach, wanted),
        Stmt::FilterBlock(filter) => any_in(&filter.filter, wanted) || any(&filter.body, reach, wanted),
        Stmt::Macro(_) if reach == Reach::Own => false,
        Stmt::Macro(definition) => {
            definition.defaults.iter().any(|value| any_in(value, wanted)) || any(&definition.body, reach, wanted)
        }
        Stmt::CallBlock(call) => {
            any_in(&call.call.expr, wanted)
                || in_arguments(&call.call.args, wanted)
                || any(&call.macro_decl.body, reach, wanted)
        }
        Stmt::Do(call) => any_in(&call.call.expr, wanted) || in_arguments(&call.call.args, wanted),
        Stmt::EmitRaw(_) | Stmt::Break(_) | Stmt::Continue(_) => false,
    }
}

fn in_arguments<'a>(arguments: &'a [CallArg<'a>], wanted: &mut dyn FnMut(&'a Expr<'a>) -> bool) -> bool {
    arguments.iter().any(|argument| match argument {
        CallArg::Pos(value) | CallArg::Kwarg(_, value) | CallArg::PosSplat(value) | CallArg::KwargSplat(value) => {
            any_in(value, wanted)
        }
    })
}

/// [`any`] of an expression and its parts.
fn any_in<'a>(expression: &'a Expr<'a>, wanted: &mut dyn FnMut(&'a Expr<'a>) -> bool) -> bool {
    if wanted(expression) {
        return true;
    }
    match expression {
        Expr::Var(_) | Expr::Const(_) => false,
        Expr::Slice(slice) => {
            any_in(&slice.expr, wanted)
                || [&slice.start, &slice.stop, &slice.step].into_iter().flatten().any(|bound| any_in(bound, wanted))
        }
        Expr::UnaryOp(operation) => any_in(&operation.expr, wanted),
        Expr::BinOp(operation) => any_in(&operation.left, wanted) || any_in(&operation.right, wanted),
        Expr::Compare(chain) => any_in(&chain.expr, wanted) || chain.ops.iter().any(|link| any_in(&link.expr, wanted)),
        Expr::IfExpr(choice) => {
            any_in(&choice.test_expr, wanted)
                || any_in(&choice.true_expr, wanted)
                || choice.false_expr.as_ref().is_some_and(|other| any_in(other, wanted))
        }
        Expr::Filter(filter) => {
            filter.expr.as_ref().is_some_and(|value| any_in(value, wanted)) || in_arguments(&filter.args, wanted)
        }
        Expr::Test(test) => any_in(&test.expr, wanted) || in_arguments(&test.args, wanted),
        Expr::GetAttr(access) => any_in(&access.expr, wanted),
        Expr::GetItem(access) => any_in(&access.expr, wanted) || any_in(&access.subscript_expr, wanted),
        Expr::Call(call) => any_in(&call.expr, wanted) || in_arguments(&call.args, wanted),
        Expr::List(list) => list.items.iter().any(|item| any_in(item, wanted)),
        Expr::Map(map) => map.keys.iter().chain(&map.values).any(|part| any_in(part, wanted)),
    }
}
