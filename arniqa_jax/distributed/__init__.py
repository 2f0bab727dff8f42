"""Several devices and processes: the mesh, shardings, joint decisions, shutdown."""
