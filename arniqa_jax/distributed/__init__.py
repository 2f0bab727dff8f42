"""Several devices and several processes: the mesh, shardings, joint decisions."""
