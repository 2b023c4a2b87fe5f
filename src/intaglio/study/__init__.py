"""Tasks with ground truth from open art, an adapter's scores on them, tables of methods over tasks and seeds."""
