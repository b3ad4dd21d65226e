//! Finds names in a block: macros accept more arguments if they mention `varargs`, `kwargs` or `caller`.

use minijinja::machinery::ast::{CallArg, Expr, Stmt};

/// True if a statement reads this variable.
pub(super) fn mentions(statements: &[Stmt<'_>], name: &str) -> bool {
    statements.iter().any(|statement| in_statement(statement, name))
}

fn in_statement(statement: &Stmt<'_>, name: &str) -> bool {
    let found = |expression: &Expr<'_>| names_in(expression, name);
    let in_block = |block: &[Stmt<'_>]| mentions(block, name);
    match statement {
        Stmt::Template(template) => in_block(&template.children),
        Stmt::EmitExpr(emitted) => found(&emitted.expr),
        Stmt::ForLoop(repeated) => {
            found(&repeated.iter)
                || repeated.filter_expr.as_ref().is_some_and(found)
                || in_block(&repeated.body)
                || in_block(&repeated.else_body)
        }
        Stmt::IfCond(condition) => {
            found(&condition.expr) || in_block(&condition.true_body) || in_block(&condition.false_body)
        }
        Stmt::WithBlock(with) => with.assignments.iter().any(|(_, value)| found(value)) || in_block(&with.body),
        Stmt::Set(set) => found(&set.expr),
        Stmt::SetBlock(set) => set.filter.as_ref().is_some_and(found) || in_block(&set.body),
        Stmt::AutoEscape(escape) => found(&escape.enabled) || in_block(&escape.body),
        Stmt::FilterBlock(filter) => found(&filter.filter) || in_block(&filter.body),
        // An inner macro has its own.
        Stmt::Macro(_) => false,
        Stmt::CallBlock(call) => {
            found(&call.call.expr) || in_arguments(&call.call.args, name) || in_block(&call.macro_decl.body)
        }
        Stmt::Do(call) => found(&call.call.expr) || in_arguments(&call.call.args, name),
        Stmt::EmitRaw(_) | Stmt::Break(_) | Stmt::Continue(_) => false,
    }
}

fn in_arguments(arguments: &[CallArg<'_>], name: &str) -> bool {
    arguments.iter().any(|argument| match argument {
        CallArg::Pos(value) | CallArg::Kwarg(_, value) | CallArg::PosSplat(value) | CallArg::KwargSplat(value) => {
            names_in(value, name)
        }
    })
}

/// True if an expression reads this variable.
pub(super) fn names_in(expression: &Expr<'_>, name: &str) -> bool {
    let found = |expression: &Expr<'_>| names_in(expression, name);
    match expression {
        Expr::Var(variable) => variable.id == name,
        Expr::Const(_) => false,
        Expr::Slice(slice) => {
            found(&slice.expr) || [&slice.start, &slice.stop, &slice.step].into_iter().flatten().any(found)
        }
        Expr::UnaryOp(operation) => found(&operation.expr),
        Expr::BinOp(operation) => found(&operation.left) || found(&operation.right),
        Expr::Compare(chain) => found(&chain.expr) || chain.ops.iter().any(|link| found(&link.expr)),
        Expr::IfExpr(choice) => {
            found(&choice.test_expr) || found(&choice.true_expr) || choice.false_expr.as_ref().is_some_and(found)
        }
        Expr::Filter(filter) => filter.expr.as_ref().is_some_and(found) || in_arguments(&filter.args, name),
        Expr::Test(test) => found(&test.expr) || in_arguments(&test.args, name),
        Expr::GetAttr(access) => found(&access.expr),
        Expr::GetItem(access) => found(&access.expr) || found(&access.subscript_expr),
        Expr::Call(call) => found(&call.expr) || in_arguments(&call.args, name),
        Expr::List(list) => list.items.iter().any(found),
        Expr::Map(map) => map.keys.iter().chain(&map.values).any(found),
    }
}
